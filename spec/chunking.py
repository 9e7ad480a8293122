#!/usr/bin/env python3
"""Cuts streams as spec/chunking.md says, and compares the lengths with vectors/v1/chunking.txt. Needs Python 3 only.

    chunking.py            compares; exit code 1 if a line differs
    chunking.py --print    prints the lines as they should be
"""
import hashlib, os, re, sys

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "chunking.md"), encoding="utf-8") as file:
    TEXT = file.read()
GEAR = [int.from_bytes(hashlib.md5(bytes([byte]) * 64).digest()[:8], "big") for byte in range(256)]
MASKS = {int(number): int(mask, 16) for number, mask in re.findall(r"\| (\d+) \| `([0-9a-f]{16})`", TEXT)}
PRINTED = [int(word, 16) for word in re.search(r"<!-- gear -->\n```\n(.*?)```", TEXT, re.S).group(1).split()]


def stream(words):
    if words[0] == "zero":
        return bytes(int(words[1]))
    x, out = int(words[1]), bytearray()
    for _ in range(int(words[2])):
        x = (x * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        out.append(x >> 56)
    return bytes(out)


def cut(s, at, low, avg, high, level):
    n = min(len(s) - at, high)
    if n <= low:
        return n
    bits, h = avg.bit_length() - 1, 0
    strict, loose = MASKS[bits + level], MASKS[bits - level]
    for i in range(low, n & ~1):
        h = ((h << 1) + GEAR[s[at + i]]) & 0xFFFFFFFFFFFFFFFF
        if h & (strict if i < avg else loose) == 0:
            return i
    return n


def lengths(case):
    words = case.split()
    parameters, s, at, out = [int(word) for word in words[:4]], stream(words[4:]), 0, []
    while at < len(s):
        out.append(cut(s, at, *parameters))
        at += out[-1]
    return out


def main():
    assert GEAR == PRINTED, "the gear table of chunking.md is not what its text says"
    wrong = 0
    with open(os.path.join(HERE, "vectors", "v1", "chunking.txt"), encoding="ascii") as file:
        for line in file.read().splitlines():
            case = line.partition(":")[0]
            right = f"{case}: {' '.join(map(str, lengths(case)))}"
            if "--print" in sys.argv:
                print(right)
            elif line != right:
                wrong += 1
                print(f"differs: {case}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
