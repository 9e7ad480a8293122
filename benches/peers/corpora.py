"""What is saved: four corpora, each built once below the work folder, the same bytes on every machine
but for the disk image, which depends on the version of e2fsprogs.

A corpus has one version or two; the second takes the place of the first for the stage `changed`.
"""
import dataclasses, multiprocessing, os, pathlib, random, shutil, subprocess, types

ROOT = pathlib.Path(__file__).resolve().parents[2]

@dataclasses.dataclass
class Corpus:
    name: str
    about: str
    stages: tuple
    versions: tuple  # of folders

def make(folder, fill):
    """`fill(folder)`, unless it was done before; what was interrupted is done again."""
    if not folder.exists():
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        fill(part)
        part.rename(folder)
    return folder

def linux(work, scale):
    if scale == 1:
        subprocess.run([ROOT / "tests/kernel-sources.sh", work], check=True)
    else:
        make(work / "6.1", lambda folder: text(folder, changed=False))
        make(work / "6.12", lambda folder: text(folder, changed=True))
    return work / "6.1", work / "6.12"

def text(folder, changed):
    """A small stand-in for a kernel tree: 13 MB of words in 800 files; of the changed one, two fifths differ."""
    fixed, fresh = random.Random("linux"), random.Random("linux, changed")
    words = [fixed.randbytes(4).hex()[:fixed.randint(2, 8)] for _ in range(4000)]
    for number in range(800):
        lines = [" ".join(fixed.choices(words, k=12)) for _ in range(fixed.randint(20, 560))]
        if changed and number % 5 < 2:
            lines[fresh.randrange(len(lines))] = " ".join(fresh.choices(words, k=12))
        file = folder / f"part-{number % 40}" / f"{number}.c"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(lines) + "\n")

def vm(work, scale):
    trees = linux(work, scale)
    return (make(work / "vm-1", lambda folder: image(folder, trees, scale)),
            make(work / "vm-2", lambda folder: changed_image(folder, work / "vm-1", trees, scale)))

# Whatever ext4 would take from the clock or at random.
FIXED_TIME = "1700000000"
FIXED_ID = "5d9c1a52-7c3e-4b6f-9a41-0e2f6c8b7d10"

def image(folder, trees, scale):
    """A sparse ext4 file system, a third full: most of the first kernel tree, and 160 files of random bytes."""
    disk = folder / "disk.img"
    with disk.open("wb") as file:
        file.truncate((3200 << 20) // scale)
    subprocess.run(["mkfs.ext4", "-q", "-U", FIXED_ID, "-E", f"hash_seed={FIXED_ID}", disk],
                   check=True, env={**os.environ, "E2FSPROGS_FAKE_TIME": FIXED_TIME})
    lines, known = [], set()
    for name in image_files(trees[0]):
        # debugfs makes no folder by itself, and takes the folder it is in for the one of `/name`.
        for parent in reversed(pathlib.PurePath("/", name).parents):
            if parent not in known:
                known.add(parent)
                lines += [f'cd "{parent.parent}"', f'mkdir "{parent.name}"'] if parent.name else []
        lines += [f'cd "/{os.path.dirname(name)}"', f'write "{trees[0] / name}" "{os.path.basename(name)}"']
    seeds = random_files(folder / "seeds", "vm", 160, (150 << 20) // scale)
    debugfs(disk, [*lines, "cd /", "mkdir seeds", "cd seeds", *(f'write "{seed}" {seed.name}' for seed in seeds)])
    shutil.rmtree(folder / "seeds")
    os.utime(disk, (0, int(FIXED_TIME)))

def changed_image(folder, before, trees, scale):
    """Each 25th file is deleted; as many of the second tree, and some more random bytes, are added."""
    disk = folder / "disk.img"
    subprocess.run(["cp", "--sparse=always", before / "disk.img", disk], check=True)
    gone = [f'rm "/{name}"' for name in image_files(trees[0])[::25]]
    added = [trees[1] / name for name in image_files(trees[1])[::25]]
    added += random_files(folder / "seeds", "vm, changed", 20, (8 << 20) // scale)
    debugfs(disk, [*gone, "mkdir added", "cd added", *(f'write "{path}" {at}' for at, path in enumerate(added))])
    shutil.rmtree(folder / "seeds")
    os.utime(disk, (0, int(FIXED_TIME) + 3600))

def image_files(tree):
    """Relative paths of the regular files, but for the largest part of a kernel tree, which would not fit."""
    names = []
    for folder, _, files in os.walk(tree):
        inside = os.path.relpath(folder, tree)
        if not inside.startswith("drivers/gpu"):
            names += [os.path.normpath(f"{inside}/{name}") for name in files if not os.path.islink(f"{folder}/{name}")]
    return sorted(names)

def debugfs(disk, lines):
    # Through the kernel's ext4 the bytes would depend on the clock and on the order in which it writes.
    env = {**os.environ, "E2FSPROGS_FAKE_TIME": FIXED_TIME}
    done = subprocess.run(["debugfs", "-w", "-f", "/dev/stdin", disk], input="\n".join(lines) + "\n", env=env,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    # Its exit status tells nothing; the first line of stderr is its version.
    if errors := done.stderr.splitlines()[1:]:
        raise RuntimeError(f"debugfs: {errors[0]}")

def random_files(folder, seed, count, total):
    """Files of random bytes, the longest seven times as long as the shortest, of `total` bytes in all."""
    chosen = random.Random(seed)
    folder.mkdir(exist_ok=True)
    weights = [chosen.uniform(1, 7) for _ in range(count)]
    paths = [folder / f"{number:03}.bin" for number in range(count)]
    for path, weight in zip(paths, weights):
        path.write_bytes(chosen.randbytes(int(total * weight / sum(weights))))
    return paths

def media(work, scale):
    return (make(work / "media", lambda folder: random_files(folder, "media", 120, 2_600_000_000 // scale)),)

def million(work, scale):
    def fill(folder):
        chosen = random.Random("million")
        for inside in (folder / f"{number:03}" for number in range(1000 // scale)):
            inside.mkdir()
            for number in range(1000):
                (inside / f"{number:03}").write_bytes(chosen.randbytes(1024))
    return (make(work / "million", fill),)

def start(work, scale):
    def fill(folder):
        (folder / "file").write_text("a repository of many snapshots of one file\n")
    return (make(work / "start", fill),)

ALL = types.MappingProxyType({
    "linux": (linux, ("first", "unchanged", "changed", "check", "restore", "prune"),
              "Debian's linux-source-6.1 (1.3 GB, 79,000 files), then linux-source-6.12 in its place"),
    "vm": (vm, ("first", "changed", "check", "restore"),
           "a sparse disk image (3.2 GB, 1.1 GB used, ext4), then the same after deleting and adding 3,000 files"),
    "media": (media, ("first", "unchanged", "check", "restore"), "2.6 GB of random bytes in 120 files"),
    "million": (million, ("first", "unchanged", "restore"),
                "1,000,000 files of 1 KiB of random bytes in 1,000 folders"),
    "start": (start, ("version", "snapshots"),
              "what it takes to start, and to list 1,000 snapshots (1,024 where they were made by doubling)"),
})

def build(name, work, scale):
    """The corpus, made in a process of its own, whose memory no program that is measured inherits."""
    function, stages, about = ALL[name]
    builder = multiprocessing.Process(target=function, args=(work, scale))
    builder.start()
    builder.join()
    if builder.exitcode:
        raise RuntimeError(f"the corpus {name} could not be built")
    if scale == 1:
        os.sync()  # so that no writing disturbs what is measured
    # This time only the paths are found.
    return Corpus(name, about, stages, tuple(folder.resolve() for folder in function(work, scale)))
