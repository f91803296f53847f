#!/usr/bin/python3
# watch.py IP: follows a guest's counter over one TCP connection until it is interrupted; prints gaps and jumps
import signal, socket, sys, time

signal.signal(signal.SIGINT, lambda *_: sys.exit(summary()))
worst = lines = 0


def summary():
    print("%d lines, worst gap %.2f s" % (lines, worst), flush=True)
    return 0


conn = socket.create_connection((sys.argv[1], 7000), timeout=60)
conn.settimeout(240)
stream = conn.makefile()
last = None
while True:
    try:
        line = stream.readline()
    except OSError as e:
        print("ERROR", e, flush=True)
        break
    if not line:
        print("EOF", flush=True)
        break
    count, wall, mono = line.split()
    now = time.time()
    lines += 1
    if last:
        worst = max(worst, now - last[0])
        if now - last[0] > 1 or int(count) < last[1]:
            print("gap %.2f s, counter %d -> %s" % (now - last[0], last[1], count), flush=True)
    last = (now, int(count))
summary()
