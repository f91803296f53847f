package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"github.com/cocoonv2/cocoon/internal/test/registrytest"
)

// forgedDocuments are the roots of what a forgery may say.
var forgedDocuments = []string{"spec", "config", "state", "manifest"}

// canary is the file that forgeries are after.
func (rt *redTeam) canary() string { return filepath.Join(filepath.Dir(rt.root), "canary") }

// known forgeries: the places of a VMM's configuration that name files or
// sockets, the strings that become arguments, and what two documents may disagree on.
func (rt *redTeam) known() [][]string {
	c := rt.canary()
	quoted := strconv.Quote(c)
	comma := strconv.Quote("x,path=" + c)
	var out [][]string
	for _, place := range []string{
		"payload.kernel", "payload.firmware", "payload.initramfs", "payload.igvm", "rng.src", "serial.file", "serial.socket", "console.file",
		"debug_console.file", "disks.0.path", "disks.0.vhost_socket", "disks.1.path", "vsock.socket", "tpm.socket", "platform.serial_number",
	} {
		out = append(out, []string{"config." + place + "=" + quoted})
	}
	for _, device := range []string{
		`fs=[{"tag":"x","socket":%s}]`, `pmem=[{"file":%s}]`, `vdpa=[{"path":%s}]`, `user_devices=[{"socket":%s}]`, `devices=[{"path":%s}]`,
		`vsock={"cid":3,"socket":%s}`, `memory.zones=[{"id":"mem0","size":67108864,"file":%s}]`, `landlock_rules=[{"path":%s,"access":"rw"}]`, `tpm={"socket":%s}`,
		`serial={"mode":"File","file":%s}`, `console={"mode":"File","file":%s}`, `fw_cfg_config={"items":[{"name":"x","file":%s}]}`, `ivshmem={"path":%s,"size":4096}`,
	} {
		out = append(out, []string{"config." + fmt.Sprintf(device, quoted)})
	}
	for _, place := range []string{"disks.0.serial", "disks.0.deviceId", "disks.1.serial"} {
		out = append(out, []string{"spec." + place + "=" + comma}, []string{"spec." + place + "=" + comma, "spec.record." + place + "=" + comma})
	}
	out = append(
		out,
		[]string{"spec.disks.0.index=-1", "spec.record.disks.0.index=-1"},
		[]string{"spec.disks.1.index=0", "spec.record.disks.1.index=0"},
		[]string{"spec.disks.1.readonly=false", "spec.record.disks.1.readonly=false", "config.disks.1.readonly=false"},
		[]string{"config.disks.1.readonly=false"},
		[]string{`spec.record.disks.0.file="../../../canary"`},
		[]string{"spec.record.disks.0.file=" + quoted},
		[]string{"spec.record.cmdline=" + strconv.Quote("x --disk path="+c)},
		[]string{"spec.record.cmdline=" + strconv.Quote("--disk=path="+c)},
		[]string{"spec.record.extraArgs=" + `["--disk","path=` + c + `"]`},
		[]string{`spec.vm.name="web\u001b[2J\n\r row"`},
		[]string{`spec.record.labels={"a\u001b[2J":"b\n"}`},
		[]string{`spec.capture.mode="live\u001b]0;x\u0007"`},
	)
	return out
}

// random changes one to three places of one document.
func (rt *redTeam) random(rng *rand.Rand) []string {
	l, err := registrytest.Load(rt.layout)
	if err != nil {
		rt.t.Fatal(err)
	}
	doc := forgedDocuments[rng.IntN(len(forgedDocuments))]
	v, err := l.Get(doc)
	if err != nil {
		rt.t.Fatal(err)
	}
	places := leaves(doc, v)
	edits := make([]string, 0, 3)
	for range 1 + rng.IntN(3) {
		place := places[rng.IntN(len(places))]
		switch rng.IntN(8) {
		case 0:
			edits = append(edits, "-"+place)
		case 1:
			edits = append(edits, place+"=@"+places[rng.IntN(len(places))])
		default:
			values := rt.values()
			edits = append(edits, place+"="+values[rng.IntN(len(values))])
		}
	}
	return edits
}

// forgeIndex changes one place of a layout's index, whose digest nothing holds.
func (rt *redTeam) forgeIndex(dir string, i int) {
	path := filepath.Join(dir, "index.json")
	b, err := os.ReadFile(path)
	if err != nil {
		rt.t.Fatal(err)
	}
	var index any
	if err := json.Unmarshal(b, &index); err != nil {
		rt.t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(uint64(i), 2))
	values := rt.values()
	place := leaves("", index)
	at := strings.Split(strings.TrimPrefix(place[rng.IntN(len(place))], "."), ".")
	if b, err = json.Marshal(replaced(index, at, json.RawMessage(values[rng.IntN(len(values))]))); err != nil {
		return // no JSON, such as 1e400, is fine: what is written is what was
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		rt.t.Fatal(err)
	}
}

// replaced is v with another value at a path.
func replaced(v any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	switch v := v.(type) {
	case map[string]any:
		v[path[0]] = replaced(v[path[0]], path[1:], value)
	case []any:
		if i, err := strconv.Atoi(path[0]); err == nil && i < len(v) {
			v[i] = replaced(v[i], path[1:], value)
		}
	}
	return v
}

// values that somebody would try, as JSON.
func (rt *redTeam) values() []string {
	c := rt.canary()
	return []string{
		strconv.Quote(c), strconv.Quote("x,path=" + c), strconv.Quote("../../../../.." + c), strconv.Quote("file://" + c), strconv.Quote("x\n--disk path=" + c),
		`""`, `"\u0000"`, `"\u001b[2J"`, `"--help"`, `"."`, `".."`, "null", "true", "false", "[]", "{}", "-1", "0", "1", "4096", "2147483648", "9223372036854775807",
		"18446744073709551615", "1e400", "0.5", `"sha256:0000000000000000000000000000000000000000000000000000000000000000"`, `["x"]`, `{"x":"y"}`,
	}
}

// leaves are the paths of a document that end in no object or list, in order;
// empty ones count.
func leaves(at string, v any) []string {
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		var out []string
		for _, k := range keys {
			out = append(out, leaves(at+"."+k, v[k])...)
		}
		if len(out) > 0 {
			return out
		}
	case []any:
		var out []string
		for i, e := range v {
			out = append(out, leaves(at+"."+strconv.Itoa(i), e)...)
		}
		if len(out) > 0 {
			return out
		}
	}
	return []string{at}
}
