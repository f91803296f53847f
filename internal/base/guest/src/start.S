/* PVH entry: 32-bit protected mode, no paging, ebx = hvm_start_info. */
	.section .note.Xen, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long _start

	.section .text.start
	.code32
	.globl _start
_start:
	cld
	mov $stack_top, %esp
	push %ebx
	call kmain
1:	hlt
	jmp 1b

	.bss
	.balign 16
	.skip 16384
stack_top:
	.section .note.GNU-stack, "", @progbits
