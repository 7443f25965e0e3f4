#!/usr/bin/env python3
"""Real power cuts and real failed syncs on ext4, without device-mapper: tests/power_cut.py WRITER [CUTS] [FAILURES]

WRITER is the program of tests/power_cut.rs. Needs root, loop devices and mkfs.ext4; exits with 77 without them.

Power cut: a file system in an image on tmpfs. While the writer is stopped (a copy of a running one is not atomic) the
image is copied without any sync; the copy is mounted, its journal replayed, and the store in it is checked against what
the writer had said is acknowledged.

Failed sync: the image is allocated whole, a hole is punched where the log will grow, and the tmpfs is shrunk so that the
hole can not be filled: the write-back of data fails, journal and metadata still work. The writer must be told that its
partition is poisoned. Then the caches are dropped, and what was acknowledged must be there. Batches are exactly a block
long here: of a longer write that a loop device did in part, Linux reports success. Such a device lies, and one run goes
without that care: what is lost then can only be told, and must be.
"""
import os, random, re, signal, subprocess, sys, tempfile, time

WRITER = sys.argv[1]
CUTS, FAILURES = (int(arg) for arg in (sys.argv[2:] + ["20", "4"][len(sys.argv) - 2 :])[:2])
SEED = int(os.environ.get("LOGSTEAD_SEED", time.time_ns() % 10**9))
BLOCK = 4096


def sh(command, check=True):
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


class Bench:
    """Mounts that are taken away at the end, whatever happens."""

    def __init__(self):
        self.dir, self.mounts = tempfile.mkdtemp(prefix="logstead-power-cut."), []

    def mount(self, name, what):
        point = f"{self.dir}/{name}"
        os.makedirs(point, exist_ok=True)
        sh(f"mount {what} {point}")
        self.mounts.append(point)
        return point

    def unmount(self, point):
        sh(f"umount {point}")
        self.mounts.remove(point)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for point in reversed(self.mounts):
            sh(f"umount {point} || umount -l {point}", check=False)
        sh(f"rm -rf --one-file-system {self.dir}", check=False)


def start(store, ack, sizes="any"):
    env = dict(os.environ, LOGSTEAD_CUT_DIR=store, LOGSTEAD_CUT_ACK=ack, LOGSTEAD_CUT_SIZES=sizes)
    command = [WRITER, "writer", "--exact", "--ignored", "--nocapture", "--test-threads=1"]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def acked(ack):
    with open(ack, "rb") as file:
        return int.from_bytes(file.read(8), "little")


def check(store, count, sizes="any", lying=False):
    """The checker's own words; it panics at anything that is missing, doubled, or was never sent."""
    env = dict(os.environ, LOGSTEAD_CUT_DIR=store, LOGSTEAD_CUT_ACKED=str(count), LOGSTEAD_CUT_SIZES=sizes, RUST_BACKTRACE="0")
    if lying:
        env["LOGSTEAD_CUT_LYING"] = "1"
    command = [WRITER, "checker", "--exact", "--ignored", "--nocapture", "--test-threads=1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def new_ack(bench):
    path = f"{bench.dir}/ack"
    with open(path, "wb") as file:
        file.write(b"\0" * 8)
    return path


def until(what, seconds, holds):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.001)


def power_cuts():
    rand, bad, last = random.Random(SEED), 0, 0
    with Bench() as bench:
        tmpfs = bench.mount("tmpfs", "-t tmpfs -o size=300m tmpfs")
        sh(f"truncate -s 96m {tmpfs}/img && mkfs.ext4 -q -F -b {BLOCK} -J size=4 {tmpfs}/img")
        live, ack = bench.mount("live", f"-o loop {tmpfs}/img"), new_ack(bench)
        writer = start(f"{live}/store", ack)
        for cut in range(CUTS):
            goal = last + rand.randrange(1, 60)
            until("the writer", 20, lambda: acked(ack) >= goal or writer.poll() is not None)
            if writer.poll() is not None:
                raise RuntimeError(f"the writer ended: {writer.stderr.read()}")
            time.sleep(rand.random() * 0.004)
            writer.send_signal(signal.SIGSTOP)
            until("a stop", 5, lambda: open(f"/proc/{writer.pid}/stat").read().rsplit(") ", 1)[1][0] == "T")
            last = acked(ack)
            sh(f"cp --sparse=always {tmpfs}/img {tmpfs}/copy")
            copy = bench.mount("copy", f"-o loop {tmpfs}/copy")
            words = check(f"{copy}/store", last)
            if words:
                bad += 1
                print(f"cut {cut}, {last} acknowledged: {words}")
            bench.unmount(copy)
            writer.send_signal(signal.SIGCONT)
        writer.kill()
        writer.wait()
    print(f"{CUTS} power cuts, {bad} violations, {last} records acknowledged")
    return bad


def last_block(path):
    ends = [int(m.group(1)) for m in re.finditer(r"^\s*\d+:.*?\.\.\s*\d+:\s+\d+\.\.\s*(\d+):", sh(f"filefrag -v {path}"), re.M)]
    return max(ends)


def failed_sync(layout, lying):
    sizes = "any" if lying else "blocks"
    with Bench() as bench:
        tmpfs = bench.mount("tmpfs", "-t tmpfs -o size=80m tmpfs")
        image = f"{tmpfs}/img"
        sh(f"dd if=/dev/zero of={image} bs=1M count=64 status=none")
        options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
        sh(f"mkfs.ext4 -b {BLOCK} -q -F -E {options} {layout} {image}")
        live, ack = bench.mount("live", f"-o loop,errors=continue {image}"), new_ack(bench)
        writer, store = start(f"{live}/store", ack, sizes), f"{live}/store"
        until("the writer", 20, lambda: acked(ack) >= 300)
        writer.send_signal(signal.SIGSTOP)
        # Far enough ahead that what is being written just now still finds its blocks.
        hole = last_block(f"{store}/t-0/{'0' * 20}.log") + 50
        sh(f"fallocate -p -o {hole * BLOCK} -l {8 << 20} {image}")
        used = int(sh(f"df --output=used -B{BLOCK} {tmpfs} | tail -1"))
        sh(f"mount -o remount,size={used * BLOCK} {tmpfs}")
        writer.send_signal(signal.SIGCONT)
        words = writer.communicate(timeout=60)[1]
        told = "POISONED" in words and writer.returncode == 0
        count = acked(ack)
        sh(f"mount -o remount,size=80m {tmpfs}")
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
        found = check(store, count, sizes, lying)
        if not told:
            print(f"the writer was not told: {words}")
        if found:
            print(f"{count} acknowledged: {found}")
        return count, 0 if told and not found else 1


def main():
    if os.geteuid() != 0:
        skip("not root")
    if subprocess.run("command -v mkfs.ext4 filefrag && losetup -f", shell=True, capture_output=True).returncode:
        skip("no mkfs.ext4, filefrag or loop device here")
    print(f"replay with LOGSTEAD_SEED={SEED}")
    bad = power_cuts()
    layouts, failures = ["-J size=4", "-O ^has_journal"], 0
    for i in range(FAILURES + 1):
        lying = i == FAILURES
        # Under a lie a journal may give up and take the whole file system out of service, which tests nothing of ours.
        layout = layouts[-1] if lying else layouts[i % len(layouts)]
        count, failed = failed_sync(layout, lying)
        failures += failed
        kind = "failed sync of a device that lies" if lying else "failed sync"
        print(f"{kind}, ext4 {layout}: {count} acknowledged before, {failed} violations")
    sys.exit(1 if bad or failures else 0)


main()
