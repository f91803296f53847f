package gc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cocoonv2/cocoon/gc/garbage"
	"github.com/cocoonv2/cocoon/internal/base/account"
	"github.com/cocoonv2/cocoon/internal/base/failure"
	"github.com/cocoonv2/cocoon/internal/base/hint"
	"github.com/cocoonv2/cocoon/store"
	"github.com/cocoonv2/cocoon/store/layout"
	"github.com/cocoonv2/cocoon/store/trash"
)

// Lost is a root that existed when the store was last collected and that no
// command removed; or a folder that is not the same any more.
type Lost struct {
	Kind   garbage.Kind `json:"kind"`
	ID     string       `json:"id"`
	Name   string       `json:"name,omitempty"`
	Reason string       `json:"reason"`
}

func (l Lost) String() string {
	switch {
	case l.Kind == garbage.Folder || l.ID == "":
		return l.Reason
	case l.Name == "" || l.Name == l.ID:
		return string(l.Kind) + " " + l.ID
	}
	return fmt.Sprintf("%s %s (%s)", l.Kind, l.Name, l.ID)
}

// Missing returns what a store lost since it was last collected.
func Missing(ctx context.Context, st *store.Store, sources []garbage.Source) ([]Lost, error) {
	for {
		m, err := remember(ctx, st, sources)
		if err != nil {
			return nil, err
		}
		if len(m.lost) == 0 {
			return nil, nil
		}
		// A collector may have noted a removal, and removed its trace, meanwhile.
		if now, err := account.Read(st.Root()); err != nil || now.Says(m.known) {
			return m.lost, nil
		}
	}
}

// Refusal is the error for a loss, nil without one.
func Refusal(lost []Lost) error {
	if len(lost) == 0 {
		return nil
	}
	var names []string
	for _, l := range lost[:min(len(lost), failuresTold)] {
		names = append(names, l.String())
	}
	if more := len(lost) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return failure.Hint(failure.New(failure.Damaged, "gc: nothing is removed: something vanished without a command: %s", strings.Join(names, ", ")),
		"mount the volume or put back what is missing; if that is lost for good, see what would go with "+hint.PlanCollect.Of()+", then "+hint.AcceptLoss.Of())
}

// memory is what the last collection noted, compared with what exists.
type memory struct {
	st      *store.Store
	sources []garbage.Source
	known   *account.Account // nil if there is none
	damage  error            // why not, where there was one
	traces  []trash.Trace
	lost    []Lost
}

// remember reads the account and looks for what it names: the files only, not
// their contents.
func remember(ctx context.Context, st *store.Store, sources []garbage.Source) (*memory, error) {
	m := &memory{st: st, sources: sources}
	var err error
	m.known, err = account.Read(st.Root())
	if errors.Is(err, account.ErrNone) {
		if exists(st.Path(account.File)) {
			m.damage = err
		}
		return m, m.first()
	}
	if err != nil {
		return nil, fmt.Errorf("gc: %w", err)
	}
	if err := m.places(); err != nil {
		return nil, err
	}
	missing, err := m.missing(ctx)
	if err != nil {
		return nil, err
	}
	return m, m.judge(missing)
}

// first checks a store without an account for what can never be right: blobs and
// not a single snapshot.
func (m *memory) first() error {
	ids, err := m.st.IDs()
	if err != nil || len(ids) > 0 {
		return err
	}
	blobs := 0
	if err := layout.EachEntry(m.st.Path("blobs", "sha256"), func([]byte, uint64) { blobs++ }); err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	if blobs > 0 {
		m.lost = append(m.lost, Lost{Kind: garbage.Snapshot, Reason: fmt.Sprintf("there is no snapshot, but %d blobs of snapshots, and no account of what existed", blobs)})
	}
	return nil
}

// places compares the folders.
func (m *memory) places() error {
	now, err := account.Places(m.st.Root(), layout.Truth())
	if err != nil {
		return fmt.Errorf("gc: %w", err)
	}
	copied := account.Copied(m.known.Folders, now)
	for _, f := range layout.Truth() {
		was, knew := m.known.Folders[f]
		place, there := now[f]
		if !knew {
			continue
		}
		if copied {
			was = was.As(place)
		}
		if why := account.Differs(f, was, place, there); why != "" {
			m.lost = append(m.lost, Lost{Kind: garbage.Folder, ID: f, Reason: why})
		}
	}
	return nil
}

// missing lists the roots of the account whose files are not there.
func (m *memory) missing(ctx context.Context) (missing []account.Root, err error) {
	folder, err := os.Open(m.st.Path("snapshots"))
	if err != nil {
		return nil, fmt.Errorf("gc: %w", err)
	}
	defer folder.Close()
	for id, name := range m.known.Snapshots {
		var st unix.Stat_t
		err := unix.Fstatat(int(folder.Fd()), id+"/manifest.json", &st, unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			missing = append(missing, account.Root{Kind: string(garbage.Snapshot), ID: id, Name: name})
		} else if err != nil {
			return nil, fmt.Errorf("gc: snapshot %s: %w", id, err)
		}
	}
	for path, r := range m.known.Roots {
		if !exists(m.st.Path(path)) {
			missing = append(missing, r)
		}
	}
	return missing, ctx.Err()
}

// judge treats as lost what is missing without a trace.
func (m *memory) judge(missing []account.Root) (err error) {
	if len(missing) == 0 {
		return nil
	}
	if m.traces == nil {
		if m.traces, err = m.st.Trash().Traces(); err != nil {
			return err
		}
	}
	for _, r := range missing {
		if !m.removed(r) {
			m.lost = append(m.lost, Lost{garbage.Kind(r.Kind), r.ID, r.Name, "it was here on " + m.known.Made.Format(time.DateTime) + ", and no command removed it"})
		}
	}
	slices.SortFunc(m.lost, func(a, b Lost) int { return strings.Compare(string(a.Kind)+a.ID, string(b.Kind)+b.ID) })
	return nil
}

// removed: a command removed it.
func (m *memory) removed(r account.Root) bool {
	if r.Kind != string(garbage.Asleep) {
		return m.traced(garbage.Kind(r.Kind), r.ID)
	}
	return m.rose(r.ID, r.Woken)
}

// rose: there is evidence that a VM, woken so often before, is no longer
// suspended: it was removed, or its record says so.
func (m *memory) rose(vm string, woken int) bool {
	if m.traced(garbage.VM, vm) {
		return true
	}
	now, ok := m.root(garbage.VM, vm)
	return ok && now.Woken > woken
}

func (m *memory) traced(kind garbage.Kind, id string) bool {
	return slices.ContainsFunc(m.traces, func(t trash.Trace) bool { return t.Kind == string(kind) && t.ID == id })
}

// root reads a root with its owner's decoder.
func (m *memory) root(kind garbage.Kind, id string) (root garbage.Root, ok bool) {
	for _, src := range m.sources {
		if src.Find == nil {
			continue
		}
		if path := src.Find(kind, id); path != "" {
			root, err := src.Read(path)
			return root, err == nil
		}
	}
	return garbage.Root{}, false
}

// confirm compares the account with what was marked: nothing more may have
// vanished during the run.
func (m *memory) confirm(r *roots) error {
	again := &memory{st: m.st, sources: m.sources, known: m.known}
	var err error
	if again.traces, err = m.st.Trash().Traces(); err != nil {
		return err
	}
	if m.known == nil {
		if err := again.first(); err != nil {
			return err
		}
	} else if err := errors.Join(again.places(), again.judge(again.unmarked(r))); err != nil {
		return err
	}
	m.traces = again.traces
	return Refusal(slices.DeleteFunc(again.lost, func(l Lost) bool {
		return slices.ContainsFunc(m.lost, func(told Lost) bool { return told.Kind == l.Kind && told.ID == l.ID })
	}))
}

// unmarked lists the roots of the account that were not read.
func (m *memory) unmarked(r *roots) (missing []account.Root) {
	for id, name := range m.known.Snapshots {
		if _, ok := r.named[store.ID(id)]; !ok {
			missing = append(missing, account.Root{Kind: string(garbage.Snapshot), ID: id, Name: name})
		}
	}
	for path, root := range m.known.Roots {
		if _, ok := r.read[path]; !ok {
			missing = append(missing, root)
		}
	}
	return missing
}
