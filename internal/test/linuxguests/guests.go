package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// lab is the host and what scenarios hand on to later ones.
type lab struct {
	host    *host
	counted int    // of web's heart when it was last asked
	bootID  string // of web's guest
}

// addresses on the network "lan" of the host.
const (
	webIP   = "10.77.0.10"
	layerIP = "10.77.0.20"
)

// cocoon runs one command in the host.
func (l *lab) cocoon(ctx context.Context, args string) (string, error) {
	return l.host.sh(ctx, "cocoon "+args)
}

// guest runs a script in a guest, by ssh from the host.
func (l *lab) guest(ctx context.Context, ip, script string) (string, error) {
	return l.host.sh(ctx, fmt.Sprintf("timeout 240 ssh -o ConnectTimeout=100 root@%s bash -s <<'END'\n%s\nEND", ip, script))
}

// up waits until a guest answers ping and ssh.
func (l *lab) up(ctx context.Context, ip string) error {
	return eventually(ctx, ip+" to answer ping and ssh", func() error {
		if _, err := l.host.sh(ctx, "ping -c 1 -W 5 "+ip); err != nil {
			return err
		}
		_, err := l.guest(ctx, ip, "true")
		return err
	})
}

// count reads the counter that the guest's heart serves.
func (l *lab) count(ctx context.Context, ip string) (int, error) {
	out, err := l.host.sh(ctx, "timeout 60 bash -c 'exec 3<>/dev/tcp/"+ip+"/7000; read -r n _ <&3; echo $n'")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// uptime of a guest, seconds of its monotonic clock since its boot.
func (l *lab) uptime(ctx context.Context, ip string) (int, error) {
	out, err := l.guest(ctx, ip, "cut -d. -f1 /proc/uptime")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// writes starts files and checksums being written in a guest, without end.
func (l *lab) writes(ctx context.Context, ip string) error {
	if _, err := l.guest(ctx, ip, "systemd-run -q --unit=writes bash /usr/local/lib/write.sh"); err != nil {
		return err
	}
	return eventually(ctx, "the first files to be written", func() error {
		_, err := l.guest(ctx, ip, "test $(cat /var/w/count) -ge 3")
		return err
	})
}

// whole stops the writing and compares checksums: the pair that was in flight
// may differ, no other.
func (l *lab) whole(ctx context.Context, ip string) error {
	out, err := l.guest(ctx, ip, "bash /usr/local/lib/compare.sh")
	if err != nil {
		return err
	}
	var compared, differ int
	if _, err := fmt.Sscanf(lastLine(out), "compared %d differ %d", &compared, &differ); err != nil {
		return fmt.Errorf("%q: %w", out, err)
	}
	if compared < 3 || differ > 1 {
		return fmt.Errorf("%d of %d files differ from their checksums", differ, compared)
	}
	return nil
}

// sound looks for what no guest's kernel may say. That the idle task was stuck is
// what one says whose clock leapt (docs/restore.md); nothing else can make it be.
func (l *lab) sound(ctx context.Context, ip string) error {
	out, err := l.guest(ctx, ip, `dmesg | grep -E 'Oops|BUG:|I/O error|EXT4-fs error|soft lockup' | grep -vE 'soft lockup - CPU#[0-9]+ stuck for [0-9]+s! \[swapper/[0-9]+:0\]' || true; systemctl --failed --no-legend`)
	if err != nil {
		return err
	}
	if s := strings.TrimSpace(out); s != "" {
		return fmt.Errorf("the guest says: %s", lastLines(s, 5))
	}
	return nil
}

// addressOf asks cocoon where a VM is reached.
func (l *lab) addressOf(ctx context.Context, vm string) (string, error) {
	out, err := l.cocoon(ctx, "vm inspect "+vm)
	if err != nil {
		return "", err
	}
	var vms []struct {
		Networks []struct{ IP string }
	}
	if err := json.Unmarshal([]byte(out), &vms); err != nil {
		return "", err
	}
	if len(vms) != 1 || len(vms[0].Networks) != 1 || vms[0].Networks[0].IP == "" {
		return "", fmt.Errorf("no address of %s in %s", vm, out)
	}
	ip, _, _ := strings.Cut(vms[0].Networks[0].IP, "/")
	return ip, nil
}

// state asks cocoon what a VM is doing.
func (l *lab) state(ctx context.Context, vm string) (string, error) {
	out, err := l.host.sh(ctx, "cocoon vm inspect "+vm+" | jq -r '.[0].state'")
	return strings.TrimSpace(out), err
}

// diskOf is the path in the host of a VM's writable disk.
func (l *lab) diskOf(ctx context.Context, vm string) (string, error) {
	out, err := l.host.sh(ctx, "ls $COCOON_ROOT_DIR/vms/$(cocoon vm inspect "+vm+" | jq -r '.[0].id')/disk-*.raw | tail -n 1")
	return strings.TrimSpace(out), err
}

// cleanFilesystem says whether a file system was left clean; a copy of it is looked
// at, since the VM may be running.
func (l *lab) cleanFilesystem(ctx context.Context, disk string, repair bool) error {
	script := "cp --sparse=always --reflink=auto " + disk + " $COCOON_ROOT_DIR/../fsck.raw; "
	if repair { // the journal is replayed first, as the next mount would do
		script += "e2fsck -fy $COCOON_ROOT_DIR/../fsck.raw || test $? -eq 1; "
	}
	_, err := l.host.sh(ctx, script+"e2fsck -fn $COCOON_ROOT_DIR/../fsck.raw; rm $COCOON_ROOT_DIR/../fsck.raw")
	return err
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
