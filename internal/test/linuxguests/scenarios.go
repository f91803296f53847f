package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// scenario is one thing that an operator relies on.
type scenario struct {
	name string
	rule string
	run  func(ctx context.Context, l *lab) error
}

// limit of a scenario: an emulated processor beside other load is slow, a hang
// is longer.
func (scenario) limit() time.Duration { return 20 * time.Minute }

// scenarios in order: "web" and its snapshots are handed from one to the next.
var scenarios = []scenario{
	{"boot", "Debian boots with systemd, answers ping and ssh on the address that cocoon gave", bootWeb},
	{"live", "a live capture under writes: the connection holds, the guest's kernel is silent", liveCapture},
	{"second", "a second capture stores what changed", secondCapture},
	{"rebuilt", "the source is gone: same boot, counter, address, wall clock, files", rebuilt},
	{"clones", "three clones on addresses of their own, files and file systems whole", clones},
	{"clock", "a guest whose clock stands still does not see the age of its snapshot, one that catches up has the time of day", clock},
	{"in-place", "restore in place goes back, services live on", inPlace},
	{"suspend", "suspend and wake go on where the guest stopped", suspendAndWake},
	{"stop", "vm stop lets the guest power off, the file system is clean", stopCleanly},
	{"off-and-reboot", "power-off from within ends the VM, reboot from within boots again", offAndReboot},
	{"layers", "a guest on a read-only EROFS layer and a writable disk is saved and rebuilt", layers},
	{"by-hand", "an exported folder runs under a bare VMM, a folder made by ch-remote is imported", byHand},
	{"host-reset", "after a reset of the host nothing is stale and a suspended VM wakes", hostReset},
}

func bootWeb(ctx context.Context, l *lab) error {
	if _, err := l.host.sh(ctx, "cocoon system doctor || true; bash /root/web.sh web "+webIP); err != nil {
		return err
	}
	if err := l.up(ctx, webIP); err != nil {
		return err
	}
	ip, err := l.addressOf(ctx, "web")
	if err == nil && ip != webIP {
		err = fmt.Errorf("vm inspect says %s", ip)
	}
	if err != nil {
		return err
	}
	if err := l.scoped(ctx, "web"); err != nil {
		return err
	}
	out, err := l.guest(ctx, webIP, "cat /proc/sys/kernel/random/boot_id")
	l.bootID = strings.TrimSpace(out)
	return errors.Join(err, l.sound(ctx, webIP))
}

// scoped: systemd has given the VMM a cgroup with bounds, whoever started it.
func (l *lab) scoped(ctx context.Context, name string) error {
	_, err := l.host.sh(ctx, `g=$(cut -d: -f3 /proc/$(cocoon vm inspect `+name+` | jq '.[0].pid')/cgroup)
case $g in /cocoon.slice/cocoon-*.scope) ;; *) echo "the VMM is in $g"; exit 1 ;; esac
test "$(cat /sys/fs/cgroup$g/memory.max)" -gt 0; test "$(cat /sys/fs/cgroup$g/cpu.weight)" = 100`)
	return err
}

// liveCapture follows the guest over one TCP connection meanwhile.
func liveCapture(ctx context.Context, l *lab) error {
	if err := l.writes(ctx, webIP); err != nil {
		return err
	}
	out, err := l.host.sh(ctx, `
python3 /root/watch.py `+webIP+` > /root/watch.log 2>&1 & w=$!
sleep 3
cocoon snapshot create web busy --stats
sleep 5; kill -INT $w; wait $w || true
grep -E 'ERROR|EOF' /root/watch.log && exit 1
tail -n 1 /root/watch.log
cocoon snapshot inspect busy | jq -r '.[0].capture.mode'`)
	if err != nil {
		return err
	}
	if mode := lastLine(out); mode != "live" {
		return fmt.Errorf("capture mode %s", mode)
	}
	if l.counted, err = l.count(ctx, webIP); err != nil {
		return err
	}
	return l.sound(ctx, webIP)
}

func secondCapture(ctx context.Context, l *lab) error {
	if _, err := l.guest(ctx, webIP, "systemctl stop writes"); err != nil {
		return err
	}
	_, err := l.host.sh(ctx, `cocoon snapshot create web second
cocoon snapshot inspect second | jq -e '.[0].capture | .pagesReused > 4 * .pagesNew'`)
	return err
}

func rebuilt(ctx context.Context, l *lab) error {
	before, err := l.count(ctx, webIP)
	if err != nil {
		return err
	}
	if _, err := l.host.sh(ctx, `! cocoon vm rm web; cocoon vm rm --force web; cocoon vm create web --from-snapshot busy`); err != nil {
		return err
	}
	if err := l.up(ctx, webIP); err != nil {
		return err
	}
	after, err := l.count(ctx, webIP)
	if err == nil && after > before {
		err = fmt.Errorf("the counter says %d, the saved guest had not reached %d", after, before)
	}
	out, gerr := l.guest(ctx, webIP, "cat /proc/sys/kernel/random/boot_id; journalctl --verify >&2; date +%s")
	if err = errors.Join(err, gerr); err != nil {
		return err
	}
	if id, _, _ := strings.Cut(out, "\n"); id != l.bootID {
		return fmt.Errorf("boot id %s, before %s: it booted", id, l.bootID)
	}
	if _, err := l.host.sh(ctx, fmt.Sprintf("d=$(( $(date +%%s) - %s )); test ${d#-} -le 60", lastLine(out))); err != nil {
		return fmt.Errorf("wall clock: %w", err)
	}
	return errors.Join(l.whole(ctx, webIP), l.sound(ctx, webIP))
}

func clones(ctx context.Context, l *lab) error {
	if _, err := l.cocoon(ctx, "vm create c --from-snapshot busy --count 3"); err != nil {
		return err
	}
	for _, name := range []string{"c-1", "c-2", "c-3"} {
		ip, err := l.addressOf(ctx, name)
		if err != nil {
			return err
		}
		if err := errors.Join(l.up(ctx, ip), l.whole(ctx, ip), l.sound(ctx, ip)); err != nil {
			return fmt.Errorf("%s on %s: %w", name, ip, err)
		}
		disk, err := l.diskOf(ctx, name)
		if err != nil {
			return err
		}
		if err := l.cleanFilesystem(ctx, disk, true); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := l.cocoon(ctx, "vm pause "+name); err != nil { // one core for all of them
			return err
		}
	}
	return nil
}

// clock compares a guest that caught up with one that did not: their uptimes
// differ by the age that the snapshot had when each was made.
func clock(ctx context.Context, l *lab) error {
	if _, err := l.cocoon(ctx, "vm create still --from-snapshot busy --guest-clock stand-still"); err != nil {
		return err
	}
	ip, err := l.addressOf(ctx, "still")
	if err != nil {
		return err
	}
	if err := l.up(ctx, ip); err != nil {
		return err
	}
	caught, err := l.uptime(ctx, webIP)
	if err != nil {
		return err
	}
	still, err := l.uptime(ctx, ip)
	if err != nil {
		return err
	}
	if caught-still < 60 {
		return fmt.Errorf("uptime %d s where the clock stood still, %d s where it caught up", still, caught)
	}
	if _, err := l.guest(ctx, ip, "! dmesg | grep -i 'rcu.*stall'"); err != nil {
		return err
	}
	_, err = l.cocoon(ctx, "vm rm --force still")
	return errors.Join(err, l.sound(ctx, webIP))
}

func inPlace(ctx context.Context, l *lab) error {
	before, err := l.count(ctx, webIP)
	if err != nil {
		return err
	}
	if _, err := l.cocoon(ctx, "vm restore web busy"); err != nil {
		return err
	}
	if err := l.up(ctx, webIP); err != nil {
		return err
	}
	after, err := l.count(ctx, webIP)
	if err == nil && after >= before {
		err = fmt.Errorf("the counter went from %d to %d: not back", before, after)
	}
	return errors.Join(err, l.sound(ctx, webIP))
}

func suspendAndWake(ctx context.Context, l *lab) error {
	before, err := l.count(ctx, webIP)
	if err != nil {
		return err
	}
	if _, err := l.host.sh(ctx, "cocoon vm suspend web; cocoon vm start web"); err != nil {
		return err
	}
	if err := l.up(ctx, webIP); err != nil {
		return err
	}
	after, err := l.count(ctx, webIP)
	if err == nil && after < before {
		err = fmt.Errorf("the counter went from %d to %d", before, after)
	}
	return errors.Join(err, l.sound(ctx, webIP))
}

// stopCleanly leaves web paused, as it is until the host's reset: more than one
// guest at work is more than the emulated processors bear.
func stopCleanly(ctx context.Context, l *lab) error {
	if _, err := l.host.sh(ctx, "cocoon vm pause web; cocoon vm resume c-1; cocoon vm stop c-1 --timeout 600s; cocoon vm logs c-1 | grep -q 'Power down'"); err != nil {
		return err
	}
	disk, err := l.diskOf(ctx, "c-1")
	if err != nil {
		return err
	}
	return l.cleanFilesystem(ctx, disk, false)
}

func offAndReboot(ctx context.Context, l *lab) error {
	off, err := l.addressOf(ctx, "c-2")
	if err != nil {
		return err
	}
	if _, err := l.cocoon(ctx, "vm resume c-2"); err != nil {
		return err
	}
	_, _ = l.guest(ctx, off, "systemctl poweroff") // the connection ends with the guest
	err = eventually(ctx, "c-2 to be stopped", func() error {
		state, err := l.state(ctx, "c-2")
		if err == nil && state != "stopped" {
			err = fmt.Errorf("state %s", state)
		}
		return err
	})
	if err != nil {
		return err
	}
	again, err := l.addressOf(ctx, "c-3")
	if err != nil {
		return err
	}
	if _, err := l.cocoon(ctx, "vm resume c-3"); err != nil {
		return err
	}
	_, _ = l.guest(ctx, again, "systemctl reboot")
	err = eventually(ctx, "c-3 to have booted", func() error {
		out, err := l.guest(ctx, again, "cat /proc/sys/kernel/random/boot_id")
		if err == nil && strings.TrimSpace(out) == l.bootID {
			err = errors.New("it has not rebooted yet")
		}
		return err
	})
	return errors.Join(err, l.sound(ctx, again))
}

func layers(ctx context.Context, l *lab) error {
	if _, err := l.host.sh(ctx, "cocoon vm rm --force c-1 c-2 c-3; bash /root/layers.sh lay "+layerIP); err != nil {
		return err
	}
	if err := l.up(ctx, layerIP); err != nil {
		return err
	}
	if err := l.writes(ctx, layerIP); err != nil {
		return err
	}
	_, err := l.host.sh(ctx, `cocoon snapshot create lay layered
cocoon vm rm --force lay
cocoon vm create lay --from-snapshot layered
cocoon snapshot inspect layered | jq -e '[.[0].diskDetails[] | select(.readonly)] | length == 1'`)
	if err != nil {
		return err
	}
	return errors.Join(l.up(ctx, layerIP), l.whole(ctx, layerIP), l.sound(ctx, layerIP))
}

// byHand runs in a netns of its own with the address that the guest expects to
// find its gateway on.
func byHand(ctx context.Context, l *lab) error {
	_, err := l.host.sh(ctx, `
cocoon vm pause lay
rm -rf /data/out /data/hand; cocoon snapshot export layered --format ch -o /data/out
ip netns add hand
ip netns exec hand cloud-hypervisor --api-socket path=/tmp/hand.sock --restore source_url=file:///data/out > /data/hand.log 2>&1 &
for i in $(seq 90); do ch-remote --api-socket /tmp/hand.sock info 2>/dev/null | grep -q Paused && break; sleep 1; done
ch-remote --api-socket /tmp/hand.sock resume
ip netns exec hand sh -c 'tap=$(ls /sys/class/net | grep tap); ip addr add 10.77.0.1/24 dev $tap; ip link set $tap up'
ip netns exec hand ping -c 20 -i 2 -W 5 -q `+layerIP+` | grep -v ' 0 received'
ch-remote --api-socket /tmp/hand.sock pause
mkdir -m 700 /data/hand; ch-remote --api-socket /tmp/hand.sock snapshot file:///data/hand
cp --reflink=auto /data/out/disk-* /data/hand/
for f in kernel initramfs; do test ! -e /data/out/$f || cp /data/out/$f /data/hand/; done
ch-remote --api-socket /tmp/hand.sock shutdown-vmm; wait
cocoon snapshot import /data/hand --name hand
cocoon vm create h --from-snapshot hand
cocoon vm inspect h | jq -e '.[0].state == "running"'
cocoon vm rm --force h; ip netns del hand; cocoon vm resume lay`)
	return err
}

func hostReset(ctx context.Context, l *lab) error {
	before, err := l.count(ctx, layerIP)
	if err != nil {
		return err
	}
	if _, err := l.host.sh(ctx, "cocoon vm suspend lay; sync"); err != nil {
		return err
	}
	if err := l.host.reset(ctx); err != nil {
		return err
	}
	// The emulated host calibrates another TSC frequency at each boot and has no
	// scaling: refused with both figures or accepted, never lost.
	_, err = l.host.sh(ctx, `
cocoon vm inspect web | jq -e '.[0].state == "stopped"'
cocoon vm inspect lay | jq -e '.[0].state == "suspended"'
rc=0; cocoon vm start lay 2> /tmp/why || rc=$?
if test $rc -ne 0; then cat /tmp/why; test $rc -eq 6; grep -qi 'khz' /tmp/why; cocoon vm start --allow-incompatible lay; fi
cocoon gc --dry-run; cocoon snapshot verify --all`)
	if err != nil {
		return err
	}
	if err := l.up(ctx, layerIP); err != nil {
		return err
	}
	after, err := l.count(ctx, layerIP)
	if err == nil && after < before {
		err = fmt.Errorf("the counter went from %d to %d", before, after)
	}
	return err
}
