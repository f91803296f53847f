package document

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestASpecDoesNotGrowUnseen: specs travel between stores of different programs,
// so one with a field that this program does not know is read, and a collector
// goes by what it knows. A field by which a snapshot needs something that neither
// its manifest names nor one of these does, must come with a new version.
func TestASpecDoesNotGrowUnseen(t *testing.T) {
	want := strings.Fields(`
		version id created vm vm.id vm.name hypervisor hypervisor.name hypervisor.version cpus
		memory memory.gpa memory.bytes memory.map
		disks disks.index disks.deviceId disks.serial disks.format disks.bytes disks.readonly disks.map disks.image
		networks networks.id networks.name networks.mac networks.ips networks.gateways networks.gatewayMac networks.mtu
		images images.digest images.role images.bytes record chConfig chState parent
		capture capture.mode capture.pauseMs capture.totalMs capture.pagesNew capture.pagesReused capture.pagesZero
		host host.kernel host.cpuModel host.cpuFlags host.vmmBuild key`)
	if d := cmp.Diff(want, jsonFields(reflect.TypeFor[Spec](), "")); d != "" {
		t.Errorf("fields of a spec (-known +now):\n%s\nif one of them is a reference: raise the version, and let document.Edges name it", d)
	}
}

func jsonFields(of reflect.Type, prefix string) (all []string) {
	for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || !strings.Contains(of.PkgPath(), "cocoon") {
		return nil
	}
	for i := range of.NumField() {
		if !of.Field(i).IsExported() {
			continue // its JSON is no object
		}
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		if name == "" {
			continue // the inside of a word
		}
		all = append(all, prefix+name)
		all = append(all, jsonFields(of.Field(i).Type, prefix+name+".")...)
	}
	return all
}
