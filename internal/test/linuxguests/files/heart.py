#!/usr/bin/python3
# counts every 0.1 s; port 7000: "count wall monotonic" every 0.2 s to whoever connects
import socket, threading, time

count = 0


def serve(conn):
    try:
        while True:
            conn.sendall(b"%d %.3f %.3f\n" % (count, time.time(), time.monotonic()))
            time.sleep(0.2)
    except OSError:
        pass


def listen():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0", 7000))
    s.listen(8)
    while True:
        threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()


threading.Thread(target=listen, daemon=True).start()
while True:
    count += 1
    time.sleep(0.1)
