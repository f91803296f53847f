#!/bin/sh
# build.sh OUT: the guest, 32-bit code in an ELF64 as Cloud Hypervisor wants it.
set -e
cd "$(dirname "$0")"
T=$(mktemp -d)
trap 'rm -r "$T"' EXIT
for part in guest machine disk net; do
	gcc -m32 -O1 -ffreestanding -fno-pic -fno-stack-protector -fno-builtin -fno-tree-loop-distribute-patterns -mno-sse -mno-mmx -Wall -c $part.c -o "$T/$part.o"
done
gcc -m32 -c start.S -o "$T/start.o"
ld -m elf_i386 --build-id=none -T link.ld "$T/start.o" "$T/guest.o" "$T/machine.o" "$T/disk.o" "$T/net.o" -o "$T/guest.elf" 2>/dev/null
objcopy -I elf32-i386 -O elf64-x86-64 "$T/guest.elf" "$1"
