#!/bin/bash
# web.sh NAME IP: a VM on an ext4 disk of its own
set -euo pipefail
. /etc/lab.env
cocoon vm create "$1" --kernel /guest/vmlinuz --initramfs /guest/initrd --disk /guest/root.raw --cpus 2 --memory 512M --network "lan,ip=$2" \
  --cmdline "console=ttyS0 root=/dev/vda rw ip={ip}::{gateway}:{netmask}:{hostname}:eth0:off net.ifnames=0 mitigations=off quiet loglevel=5 systemd.show_status=0" --start
