package cocoon_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/cocoonv2/cocoon"
	"github.com/cocoonv2/cocoon/gc/policy"
)

var ctx = context.Background()

// open is what each example begins with.
func open() *cocoon.Host {
	host, err := cocoon.Open(ctx, cocoon.Options{Create: true})
	if err != nil {
		log.Fatalf("%+v", err)
	}
	return host
}

// boot makes a VM to do something with.
func boot(host *cocoon.Host, name string) {
	_, err := host.Create(ctx, cocoon.VM{Name: name, MemoryBytes: 64 << 20, Kernel: "guest.elf", Disks: []string{"disk.raw"}})
	check(err)
}

func check(err error) {
	if err != nil {
		log.Fatalf("%+v", err)
	}
}

// The whole job: a VM is made, saved while it runs, removed, and rebuilt.
func Example() {
	ctx := context.Background()
	host, err := cocoon.Open(ctx, cocoon.Options{Create: true})
	if err != nil {
		log.Fatalf("%+v", err) // with what can be done about it
	}
	_, err = host.Create(ctx, cocoon.VM{Name: "web", CPUs: 1, MemoryBytes: 64 << 20, Kernel: "guest.elf", Disks: []string{"disk.raw"}})
	check(err)
	sn, err := host.Save(ctx, "web", cocoon.SaveOptions{Name: "before-upgrade", Labels: map[string]string{"tier": "front"}})
	check(err)
	fmt.Println(sn.Name, "of", sn.VM, "is", sn.State)

	check(host.Stop(ctx, "web"))
	check(host.RemoveVM(ctx, "web"))
	vm, err := host.Restore(ctx, "before-upgrade", "web")
	check(err)
	fmt.Println(vm.Name, "is", vm.State)
	// Output:
	// before-upgrade of web is ready
	// web is running
}

// A caller that wants no more of it depends on the two calls alone.
func ExampleHypervisor() {
	host := open()
	boot(host, "pet")
	var h cocoon.Hypervisor = host
	check(h.Snapshot(ctx, "pet", "pet-monday"))
	vm, err := h.Restore(ctx, "pet-monday", "pet-again")
	check(err)
	fmt.Println(vm.Name, "is", vm.State)
	// Output: pet-again is running
}

// Clones share what they can, and start together.
func ExampleHost_Clone() {
	host := open()
	boot(host, "base")
	_, err := host.Save(ctx, "base", cocoon.SaveOptions{Name: "clean"})
	check(err)
	vms, err := host.Clone(ctx, "clean", []string{"ci-1", "ci-2", "ci-3"}, cocoon.RestoreOptions{Mode: "map"})
	check(err)
	for _, vm := range vms {
		fmt.Println(vm.Name, "is", vm.State)
	}
	// Output:
	// ci-1 is running
	// ci-2 is running
	// ci-3 is running
}

// A suspended VM takes no RAM and no processor, and goes on where it was.
func ExampleHost_Suspend() {
	host := open()
	boot(host, "sleeper")
	check(host.Suspend(ctx, "sleeper"))
	vm, err := host.InspectVM(ctx, "sleeper")
	check(err)
	fmt.Println(vm.State)

	check(host.Wake(ctx, "sleeper", cocoon.RestoreOptions{}))
	vm, err = host.InspectVM(ctx, "sleeper")
	check(err)
	fmt.Println(vm.State)
	// Output:
	// suspended
	// running
}

// A VM goes back to what it was, and its present is kept.
func ExampleHost_RestoreInPlace() {
	host := open()
	boot(host, "db")
	_, err := host.Save(ctx, "db", cocoon.SaveOptions{Name: "db-good"})
	check(err)
	backup, err := host.RestoreInPlace(ctx, "db", "db-good", cocoon.RestoreOptions{Backup: true})
	check(err)
	sn, err := host.Inspect(ctx, backup)
	check(err)
	fmt.Println("the backup is of", sn.VM)
	// Output: the backup is of db
}

// An archive goes to another host by any means, and a VM is rebuilt there.
func ExampleHost_Export() {
	host := open()
	boot(host, "traveller")
	_, err := host.Save(ctx, "traveller", cocoon.SaveOptions{Name: "packed"})
	check(err)
	check(host.Export(ctx, "packed", "packed.tar"))

	check(host.Remove(ctx, "packed")) // or another host
	sn, err := host.Import(ctx, "packed.tar", "unpacked")
	check(err)
	vm, err := host.Restore(ctx, sn.ID, "arrived")
	check(err)
	fmt.Println(vm.Name, "is", vm.State, "from the snapshot of", sn.VM)
	// Output: arrived is running from the snapshot of traveller
}

// A pinned image stays, though nothing uses it.
func ExampleHost_PinImage() {
	host := open()
	_, err := host.ImportImage(ctx, "disk.raw", "base-7")
	check(err)
	check(host.PinImage(ctx, "base-7"))
	fmt.Println("conflict:", errors.Is(host.RemoveImage(ctx, "base-7"), cocoon.Conflict))

	check(host.UnpinImage(ctx, "base-7"))
	check(host.RemoveImage(ctx, "base-7"))
	// Output: conflict: true
}

// A policy goes first, then what only the removed snapshots needed is freed.
func ExampleHost_Prune() {
	host := open()
	boot(host, "hourly")
	for _, name := range []string{"h1", "h2", "h3"} {
		_, err := host.Save(ctx, "hourly", cocoon.SaveOptions{Name: name})
		check(err)
	}
	decisions, err := host.Prune(ctx, policy.Rules{Last: 1}, false)
	check(err)
	for _, d := range decisions {
		if d.Snapshot.VMName == "hourly" && !d.Keep {
			fmt.Println(d.Snapshot.Name, "went")
		}
	}
	_, err = host.Collect(ctx, false)
	check(err)
	_, err = host.Verify(ctx, true)
	check(err)
	// Unordered output:
	// h1 went
	// h2 went
}

// The class of an error tells what to do; the text is for people.
func Example_errors() {
	host := open()
	_, err := host.Save(ctx, "nobody", cocoon.SaveOptions{})
	switch {
	case errors.Is(err, cocoon.NotFound):
		fmt.Println("no such VM")
	case errors.Is(err, cocoon.Busy):
		fmt.Println("try again")
	case err != nil:
		log.Fatalf("%+v", err)
	}
	// Output: no such VM
}
