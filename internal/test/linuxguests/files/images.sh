#!/bin/bash
# images.sh DIR VMM_DIR COCOON KEY.pub: DIR/host.tar and guest.tar -> host.raw, data.raw, vmlinuz-host, initrd-host
set -euo pipefail
dir=$1 vmm=$2 cocoon=$3 key=$4 files=$1/files
cd "$dir"
quiet() { # quiet TREE UNIT…: units that only cost time here
  local tree=$1; shift
  for u in "$@"; do ln -sf /dev/null "$tree/etc/systemd/system/$u"; done
}
guest_tree() {
  rm -rf guest; mkdir guest; tar -xpf guest.tar -C guest
  echo guest > guest/etc/hostname
  printf '127.0.0.1 localhost guest\n' > guest/etc/hosts
  echo '/dev/vda / ext4 rw 0 1' > guest/etc/fstab
  mkdir -p guest/var/log/journal guest/usr/local/lib
  install -D -m 600 "$key" guest/root/.ssh/authorized_keys
  install -m 755 "$files/heart.py" "$files/write.sh" "$files/compare.sh" guest/usr/local/lib/
  install -D -m 644 "$files/heart.service" guest/etc/systemd/system/heart.service
  mkdir -p guest/etc/systemd/system/multi-user.target.wants
  ln -sf /etc/systemd/system/heart.service guest/etc/systemd/system/multi-user.target.wants/
  quiet guest apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer man-db.timer dpkg-db-backup.timer \
    systemd-networkd.service networking.service acpid.service acpid.socket
  # A small initramfs that knows ip= (Debian's kernel does not) and boot=layers.
  sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=gzip/' guest/etc/initramfs-tools/initramfs.conf
  printf 'virtio_pci\nvirtio_blk\nvirtio_net\nerofs\noverlay\nvirtio_rng\n' > guest/etc/initramfs-tools/modules
  install -D -m 755 "$files/ip" guest/etc/initramfs-tools/scripts/init-premount/ip
  install -D -m 755 "$files/layers" guest/etc/initramfs-tools/scripts/layers
  chroot guest update-initramfs -u -k all >&2
}
made=$(cat guest.tar "$key" "$files"/{heart.py,heart.service,write.sh,compare.sh,ip,layers,images.sh} | sha256sum)
if [ "$(cat out/made 2>/dev/null)" != "$made" ]; then
  guest_tree
  rm -rf out; mkdir out
  cp guest/boot/vmlinuz-* out/vmlinuz; cp guest/boot/initrd.img-* out/initrd
  rm -f guest/boot/initrd* guest/boot/vmlinuz* guest/boot/System.map*
  mkfs.erofs out/base.erofs guest >/dev/null
  truncate -s 512M out/cow.raw; mkfs.ext4 -q -F out/cow.raw
  mkfs.ext4 -q -F -L root -E lazy_itable_init=0 -d guest out/root.raw 1200M
  rm -rf guest
  echo "$made" > out/made
fi
rm -rf host; mkdir host; tar -xpf host.tar -C host
cp -r --sparse=always out host/guest
echo host > host/etc/hostname
printf '127.0.0.1 localhost host\n' > host/etc/hosts
printf '/dev/vda / ext4 rw 0 1\n/dev/vdb /data xfs nofail 0 0\n' > host/etc/fstab
mkdir -p host/data
install -D -m 600 "$key" host/root/.ssh/authorized_keys
install -m 600 "${key%.pub}" host/root/.ssh/id_ed25519
printf 'Host 10.*\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n' > host/root/.ssh/config
printf '[Match]\nName=en*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n' > host/etc/systemd/network/a.network
mkdir -p host/etc/systemd/system/multi-user.target.wants
ln -sf /lib/systemd/system/systemd-networkd.service host/etc/systemd/system/multi-user.target.wants/
quiet host apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer man-db.timer dpkg-db-backup.timer systemd-networkd-wait-online.service
printf 'kvm_amd\ntun\n' > host/etc/modules-load.d/kvm.conf
install -D -m 644 "$files/lan.conflist" host/etc/cni/net.d/10-lan.conflist
install -m 644 "$files/lab.env" host/etc/lab.env
install -m 755 "$files/watch.py" "$files/web.sh" "$files/layers.sh" host/root/
install -m 755 "$vmm/cloud-hypervisor" "$vmm/ch-remote" "$cocoon" host/usr/local/bin/
cp host/boot/vmlinuz-* vmlinuz-host; cp host/boot/initrd.img-* initrd-host
rm -f host.raw data.raw
mkfs.ext4 -q -F -L host -E lazy_itable_init=0 -d host host.raw 16G
truncate -s 20G data.raw; mkfs.xfs -q -f data.raw
rm -rf host
