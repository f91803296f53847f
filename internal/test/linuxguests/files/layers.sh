#!/bin/bash
# layers.sh NAME IP: a VM on a read-only EROFS layer and a writable ext4 disk
set -euo pipefail
. /etc/lab.env
cocoon vm create "$1" --kernel /guest/vmlinuz --initramfs /guest/initrd --disk /guest/base.erofs,readonly --disk /guest/cow.raw --cpus 1 --memory 384M --network "lan,ip=$2" \
  --cmdline "console=ttyS0 boot=layers layers=/dev/vda cow=/dev/vdb ip={ip}::{gateway}:{netmask}:{hostname}:eth0:off net.ifnames=0 mitigations=off quiet loglevel=5 systemd.show_status=0" --start
