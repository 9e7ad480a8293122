"""Measures vault beside other programs of its kind, on the same corpora, in the same run.

    python3 benches/peers FOLDER                  measures all there is: hours, and 20 GB in FOLDER, 12 GB of memory
    python3 benches/peers FOLDER --corpus linux   a part; likewise --stage, --programs, --runs
    python3 benches/peers FOLDER --small          everything at a hundredth of the size, to try the script itself
    python3 benches/peers --render FOLDER/peers.json   tables and chart once more, without measuring

FOLDER keeps the corpora, and gets peers.md, peers.json (all samples) and, if Python has matplotlib, peers.svg. Needs
Linux, root, Python 3.11, rsync, e2fsprogs and zstd. The peers are optional; what PATH has is run, or what is named by
--peer NAME=PATH:

    restic      Debian's package restic; that of a newer suite runs too (apt-get download, dpkg-deb -x)
    borg        Debian's package borgbackup, or pip install borgbackup
    rustic      cargo install rustic-rs
    bupstash    cargo install bupstash (with libsodium-dev and pkg-config)
    conserve    cargo install conserve
    vykar       cargo build --release, in its source

In each round every program goes through all stages of a corpus, with an empty repository and empty caches at the
beginning; the corpus was read once before, and appears at the same path in all its versions. In the first round what
was restored is compared with the source. What fails or differs is reported as that, and never as fast; if that is
vault, the exit status is 1.
"""
import argparse, datetime, json, os, pathlib, platform, re, shutil, subprocess, sys

sys.dont_write_bytecode = True
import corpora, measure, programs, report

def some_of(known):
    def names(text):  # so called, as it is in the message about others
        return [known[known.index(name)] for name in text.split(",")]
    return names

def arguments():
    parser = argparse.ArgumentParser(prog="benches/peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = sorted({stage for _, stages, _ in corpora.ALL.values() for stage in stages})
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="where the corpora and the results are")
    parser.add_argument("--corpus", type=some_of(list(corpora.ALL)), default=list(corpora.ALL), metavar="NAME,…",
                        help=", ".join(corpora.ALL))
    parser.add_argument("--stage", type=some_of(stages), default=stages, metavar="NAME,…", help=", ".join(stages))
    parser.add_argument("--programs", type=some_of(list(programs.ALL)), metavar="NAME,…",
                        help=", ".join(programs.ALL) + " [default: those that are there]")
    parser.add_argument("--runs", type=int, default=5, help="how many rounds [default: 5]")
    parser.add_argument("--vault", type=pathlib.Path, help="the program [default: built here]")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="where another program is")
    parser.add_argument("--place", type=pathlib.Path, default=pathlib.Path("/dev/shm"),
                        help="where repositories are made, and restored into [default: /dev/shm]")
    parser.add_argument("--small", action="store_true", help="a hundredth of everything")
    parser.add_argument("--render", type=pathlib.Path, metavar="FILE", help="the samples to be rendered again")
    parsed = parser.parse_args()
    if bool(parsed.folder) == bool(parsed.render):
        parser.error("either FOLDER or --render FILE")
    return parsed

def find_binaries(options):
    vault = options.vault
    if not vault:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=corpora.ROOT, check=True)
        vault = corpora.ROOT / "target/release/vault"
    named = {"vault": str(vault), **dict(pair.split("=", 1) for pair in options.peer)}
    known = {program.binary for program in programs.ALL.values()}
    found = {name: shutil.which(named.get(name, name)) for name in known}
    for name in named:
        if not found.get(name):
            sys.exit(f"{name} is not there, or is no program that is known here")
    return {name: os.path.abspath(path) for name, path in found.items() if path}

def versions(chosen, binaries):
    found = {}
    for program in chosen:
        if program.version and program.binary not in found:
            words = [binaries[program.binary], *program.version.split()[1:]]
            printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")[0]
            found[program.binary] = re.search(r"\d[\w.+-]*", printed)[0]
    return found

def machine():
    model = re.search("model name\\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    kernel = re.match(r"[\d.]*\d", platform.release())[0]
    return (f"{len(os.sched_getaffinity(0))} cores of {model[1] if model else platform.machine()}, "
            f"{memory:.0f} GiB of memory, Linux {kernel}")

def medium(place):
    return subprocess.run(["stat", "-f", "-c", "%T", place], capture_output=True, text=True, check=True).stdout.strip()

def render(data, stem):
    table = report.markdown(data)
    stem.with_suffix(".md").write_text(table)
    try:
        report.chart(data, stem.with_suffix(".svg"))
    except ModuleNotFoundError:
        print("no chart: this Python has no matplotlib", file=sys.stderr)
    return table

def say(sample):
    shown = next((f"{kind}: {sample[kind]}" for kind in ("failed", "wrong", "left_out") if kind in sample), "")
    figures = [f"{sample[name]:10.3f} {unit}" for name, unit in (("seconds", "s"), ("mib", "MiB")) if name in sample]
    place = f"{sample['corpus']} {sample['round']}: {sample['stage']}, {sample['program']}"
    print(f"{place:40}{' '.join(figures)}  {shown}", file=sys.stderr, flush=True)

def main():
    options = arguments()
    if options.render:
        print(render(json.loads(options.render.read_text()), options.render.with_suffix("")), end="")
        return
    if os.geteuid():
        sys.exit("root is needed: to restore owners, and to let both versions of a corpus appear at one path")
    if not os.environ.get("PEERS_UNSHARED"):
        # A mount namespace of its own: whatever happens, nothing stays mounted.
        os.execvpe("unshare", ["unshare", "--mount", sys.executable, os.path.dirname(__file__), *sys.argv[1:]],
                   {**os.environ, "PEERS_UNSHARED": "1"})
    binaries = find_binaries(options)
    wanted = options.programs or programs.ALL
    chosen = [program for key, program in programs.ALL.items() if key in wanted and program.binary in binaries]
    if options.programs and len(chosen) < len(set(wanted)):
        sys.exit("not there: " + ", ".join(set(wanted) - {program.key for program in chosen}))
    scale = 100 if options.small else 1
    folder = (options.folder / "small" if options.small else options.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    place = options.place.resolve() / f"vault-peers-{os.getpid()}"
    data = {"date": f"{datetime.date.today()}", "machine": machine(), "medium": medium(options.place),
            "runs": options.runs, "small": options.small, "versions": versions(chosen, binaries), "samples": []}

    def keep(sample):
        say(sample)
        data["samples"].append(sample)
        (folder / "peers.json").write_text(json.dumps(data, indent=1) + "\n")

    bench = measure.Bench(folder, place, binaries, 1000 // scale, keep)
    try:
        for name in options.corpus:
            corpus = corpora.build(name, folder, scale)
            if name == "start":
                bench.start_up(corpus, chosen, options.runs, options.stage)
                continue
            running = chosen
            for number in range(1, options.runs + 1):
                measure.warm(corpus)
                running = [program for program in running if bench.round(corpus, program, number, options.stage)]
    finally:
        bench.close()
    print(render(data, folder / "peers"), end="")
    if any(programs.ALL[sample["program"]].kind == "vault" and {"failed", "wrong"} & sample.keys()
           for sample in data["samples"]):
        sys.exit(1)

main()
