#!/usr/bin/env python3
"""Cuts streams as spec/chunking.md says, and compares the lengths with vectors/v1/chunking.txt and chunking_secret.txt.

Needs Python 3 only; for the lines with a secret also the package `blake3`: without it they are left out, and that is said.

    chunking.py            compares; exit code 1 if a line differs
    chunking.py --print    prints the lines as they should be
"""
import hashlib, os, re, sys

try:
    from blake3 import blake3
except ImportError:
    blake3 = None

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "chunking.md"), encoding="utf-8") as file:
    TEXT = file.read()
GEAR = [int.from_bytes(hashlib.md5(bytes([byte]) * 64).digest()[:8], "big") for byte in range(256)]
MASKS = {int(number): int(mask, 16) for number, mask in re.findall(r"\| (\d+) \| `([0-9a-f]{16})`", TEXT)}
PRINTED = [int(word, 16) for word in re.search(r"<!-- gear -->\n```\n(.*?)```", TEXT, re.S).group(1).split()]


def secret_gear(secret):
    out = blake3(b"", key=secret).digest(256 * 8)
    return [int.from_bytes(out[at:at + 8], "little") for at in range(0, len(out), 8)]


def stream(words):
    if words[0] == "zero":
        return bytes(int(words[1]))
    x, out = int(words[1]), bytearray()
    for _ in range(int(words[2])):
        x = (x * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        out.append(x >> 56)
    return bytes(out)


def cut(gear, s, at, low, avg, high, level):
    n = min(len(s) - at, high)
    if n <= low:
        return n
    bits, h = avg.bit_length() - 1, 0
    strict, loose = MASKS[bits + level], MASKS[bits - level]
    for i in range(low, n & ~1):
        h = ((h << 1) + gear[s[at + i]]) & 0xFFFFFFFFFFFFFFFF
        if h & (strict if i < avg else loose) == 0:
            return i
    return n


def lengths(case):
    words = case.split()
    gear = secret_gear(bytes.fromhex(words.pop(0))) if len(words[0]) == 64 else GEAR
    parameters, s, at, out = [int(word) for word in words[:4]], stream(words[4:]), 0, []
    while at < len(s):
        out.append(cut(gear, s, at, *parameters))
        at += out[-1]
    return out


def compare(name):  # how many lines differ
    wrong = 0
    with open(os.path.join(HERE, "vectors", "v1", name), encoding="ascii") as file:
        for line in file.read().splitlines():
            case = line.partition(":")[0]
            right = f"{case}: {' '.join(map(str, lengths(case)))}"
            if "--print" in sys.argv:
                print(right)
            elif line != right:
                wrong += 1
                print(f"differs: {case}", file=sys.stderr)
    return wrong


def main():
    assert GEAR == PRINTED, "the gear table of chunking.md is not what its text says"
    wrong = compare("chunking.txt")
    if blake3:
        wrong += compare("chunking_secret.txt")
    else:
        print("chunking_secret.txt is left out: it needs the package blake3", file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
