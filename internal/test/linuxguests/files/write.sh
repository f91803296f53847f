#!/bin/bash
# 1 MiB files with their checksums, synced, renamed; without end
mkdir -p /var/w
for ((i = 1; ; i++)); do
  f=/var/w/$((i % 20))
  dd if=/dev/urandom of=$f.new bs=64k count=16 2>/dev/null
  sha256sum < $f.new > $f.sum.new
  sync $f.new $f.sum.new
  mv $f.new $f
  mv $f.sum.new $f.sum
  echo $i > /var/w/count
done
