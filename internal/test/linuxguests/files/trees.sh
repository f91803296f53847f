#!/bin/bash
# trees.sh DIR: DIR/host.tar and DIR/guest.tar, Debian trees made once from Debian's own packages
set -euo pipefail
cd "$1"
host=systemd-sysv,udev,dbus,linux-image-amd64,initramfs-tools,openssh-server,iproute2,iptables,nftables,iputils-ping,containernetworking-plugins,procps,kmod,e2fsprogs,xfsprogs,jq,python3-minimal,ca-certificates
guest=systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,iproute2,iputils-ping,procps,kmod,e2fsprogs,openssh-server,python3-minimal,acpid
tree() { # tree TAR PACKAGES
  [ -s "$1" ] && return
  mmdebstrap --quiet --mode=root --variant=minbase --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' --include="$2" bookworm "part-$1" >&2
  mv "part-$1" "$1"
}
tree host.tar "$host"
tree guest.tar "$guest"
