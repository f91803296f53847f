package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/cocoonv2/cocoon/internal/base/durable"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/filelock"
	"github.com/cocoonv2/cocoon/internal/base/owner"
	"github.com/cocoonv2/cocoon/internal/base/patience"
)

const recordVersion = 1

// recordFile holds a record; most of it is the conflist.
var recordFile = durable.Document{Name: "network record", Limit: 4 << 20}

// record is CacheDir/attachments/<vm>.<ifname>.json. Until the plugins have
// answered, the attachment holds the request.
type record struct {
	Version    int             `json:"version"`
	Request    Request         `json:"request"`
	Attachment Attachment      `json:"attachment"`
	Config     json.RawMessage `json:"config,omitempty"` // the conflist as it was used; Unplugged has none
	Owner      owner.Mark      `json:"owner,omitzero"`   // the store that made it
}

func newRecord(h Host, r Request, conf *conflist) *record {
	a := Wanted(r)
	a.Conflist, a.Netns, a.Ifname, a.Tap = conf.path, h.netnsPath(r.VM), ifname(r.Index), tapName(r.Index)
	rec := &record{Version: recordVersion, Request: r, Attachment: a, Owner: h.Owner}
	if conf.list != nil {
		rec.Config = conf.list.Bytes
	}
	return rec
}

func (h Host) recordsDir() string { return filepath.Join(h.CacheDir, "attachments") }

func (h Host) recordPath(vm, ifname string) string {
	return filepath.Join(h.recordsDir(), vm+"."+ifname+".json")
}

// claim writes the record unless another VM on the same network has the requested
// MAC or address.
func (h Host) claim(ctx context.Context, rec *record) error {
	if err := durable.Mkdir(h.recordsDir(), 0o700); err != nil {
		return err
	}
	ctx, cancel := patience.Bound(ctx, h.Patience.Call())
	defer cancel()
	lock, err := filelock.Exclusive(ctx, filepath.Join(h.CacheDir, "claims.lock"))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	others, err := h.records()
	if err != nil {
		return err
	}
	for _, o := range others {
		if err := collide(rec.Request, o.Attachment); err != nil {
			return err
		}
	}
	return h.write(rec)
}

func collide(r Request, o Attachment) error {
	what := claims(r, o)
	if what == "" {
		return nil
	}
	return failure.Hint(failure.New(failure.Conflict, "network %s: %s belongs to VM %s", r.Network, what, o.VM),
		"remove that VM, or give this one a fresh identity")
}

// claims names the requested MAC or address that another attachment has.
func claims(r Request, o Attachment) (what string) {
	if o.Network != r.Network || o.Network == Unplugged || o.VM == r.VM && o.Index == r.Index {
		return ""
	}
	if r.MAC != "" && strings.EqualFold(r.MAC, o.MAC) {
		what = "MAC " + r.MAC
	}
	for _, ip := range r.IPs {
		if slices.ContainsFunc(o.IPs, func(p netip.Prefix) bool { return p.Addr() == ip }) {
			what = "address " + ip.String()
		}
	}
	return what
}

func (h Host) write(rec *record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return recordFile.Write(h.recordPath(rec.Attachment.VM, rec.Attachment.Ifname), b, 0o600)
}

// read returns a record: fs.ErrNotExist if there is none, failure.Damaged if it
// cannot be decoded.
func (h Host) read(vm, ifname string) (*record, error) {
	path := h.recordPath(vm, ifname)
	b, err := recordFile.Read(path)
	if err != nil {
		return nil, err
	}
	var rec record
	err = json.Unmarshal(b, &rec)
	if err == nil && rec.Version > recordVersion {
		return nil, failure.Hint(failure.New(failure.Incompatible, "network record %s has version %d, this program knows %d", path, rec.Version, recordVersion), "use the newer program")
	}
	if err == nil && rec.Version != recordVersion {
		err = fmt.Errorf("version %d", rec.Version)
	}
	a, r := rec.Attachment, rec.Request
	if err == nil && (a.VM != vm || r.VM != vm || r.Index != a.Index || a.Ifname != ifname || a.Netns != h.netnsPath(vm)) {
		err = errors.New("it names another interface")
	}
	if err != nil {
		return nil, failure.New(failure.Damaged, "network record %s: %w", path, err)
	}
	return &rec, nil
}

// names lists the VM and interface of every record, damaged ones included.
func (h Host) names() ([][2]string, error) {
	entries, err := os.ReadDir(h.recordsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out [][2]string
	for _, e := range entries {
		stem, ok := strings.CutSuffix(e.Name(), ".json")
		vm, iface, ok2 := strings.Cut(stem, ".")
		if ok && ok2 && isID(vm) {
			out = append(out, [2]string{vm, iface})
		}
	}
	return out, nil
}

// records returns the records that can be read; a damaged one claims nothing.
func (h Host) records() ([]*record, error) {
	names, err := h.names()
	if err != nil {
		return nil, err
	}
	var out []*record
	for _, n := range names {
		rec, err := h.read(n[0], n[1])
		switch {
		case err == nil:
			out = append(out, rec)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, failure.Damaged) && !errors.Is(err, failure.Incompatible):
			return nil, err
		}
	}
	return out, nil
}

// forget removes the record, the last step of undoing.
func (h Host) forget(a Attachment) error {
	err := os.Remove(h.recordPath(a.VM, a.Ifname))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncDir(h.recordsDir())
}

// lastKnown finds how an attachment was made: its record, else what libcni
// cached, else the conflist of that name today.
func (h Host) lastKnown(a Attachment) (*record, *libcni.NetworkConfigList, error) {
	rec, err := h.read(a.VM, a.Ifname)
	if err == nil && rec.Attachment.Network == Unplugged {
		return rec, nil, nil
	}
	if err == nil {
		list, err := libcni.NetworkConfFromBytes(rec.Config)
		if err == nil {
			return rec, list, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, failure.Damaged) {
		return nil, nil, err
	}
	rec = &record{Version: recordVersion, Request: a.Request(), Attachment: a}
	if a.Network == Unplugged {
		return rec, nil, nil
	}
	cached, err := h.cni().GetCachedAttachments(a.VM)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range cached {
		list, err := libcni.NetworkConfFromBytes(c.Config)
		if err == nil && c.IfName == a.Ifname {
			rec.Config = c.Config
			return rec, list, nil
		}
	}
	conf, err := h.find(a.Network)
	if err != nil {
		return nil, nil, err
	}
	rec.Config = conf.list.Bytes
	return rec, conf.list, nil
}
