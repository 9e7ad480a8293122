"""What came out: a table of medians for each corpus, as Markdown, and a chart of them, as SVG."""
import statistics
import corpora, programs

STAGES = {"first": "first", "size": "size after that, MiB", "unchanged": "unchanged", "changed": "changed",
          "sizes": "size after both, MiB", "check": "read-data check", "restore": "restore",
          "prune": "forget the first, prune", "pruned": "size after that, MiB",
          "version": "`version`",
          "snapshots": "listing"}
SIZES = ("size", "sizes", "pruned")

class Results:
    """The samples of one corpus."""

    def __init__(self, samples):
        self.samples = samples
        present = {sample["program"] for sample in samples}
        self.programs = [program for program in programs.ALL.values() if program.key in present]
        present = {sample["stage"] for sample in samples}
        self.stages = [stage for stage in STAGES if stage in present]

    def of(self, stage, program):
        return [sample for sample in self.samples if (sample["stage"], sample["program"]) == (stage, program.key)]

    def trouble(self, stage, program):
        """`failed`, `wrong` or `left out`, and why; nothing if all went well."""
        for sample in self.of(stage, program):
            for kind in ("failed", "wrong", "left_out"):
                if kind in sample:
                    return kind.replace("_", " "), sample[kind]
        return None

    def figure(self, stage, program):
        """The median, in seconds or MiB; nothing if there is none, or if anything went wrong."""
        samples = self.of(stage, program)
        if not samples or self.trouble(stage, program):
            return None
        return statistics.median(sample["mib" if stage in SIZES else "seconds"] for sample in samples)

    def cell(self, stage, program):
        if trouble := self.trouble(stage, program):
            return trouble[0]
        if (figure := self.figure(stage, program)) is None:
            return "–"
        if stage in SIZES:
            return f"{figure:,.0f}"
        peak = max(self.of(stage, program), key=lambda sample: sample["mib"])
        memory = f"{peak['mib']:.0f}" if peak["mib"] > peak["floor"] + 1 else f"<{peak['mib'] + 1:.0f}"
        return f"{seconds(figure)} [{memory}]"

    def ratio(self, stage, key):
        """How much a kind of vault takes of what the best peer takes, and which peer that is."""
        peers = {program.title or program.key: figure for program in self.programs
                 if program.kind == "peer" and (figure := self.figure(stage, program))}
        ours = self.figure(stage, programs.ALL[key])
        if ours is None or not peers:
            return "–"
        best = min(peers, key=peers.get)
        return f"{ours / peers[best]:.2f} {best}"

def seconds(figure):
    return f"{figure:.3f}" if figure < 0.1 else f"{figure:.2f}" if figure < 10 else f"{figure:.1f}"

def by_corpus(data):
    found = {name: [sample for sample in data["samples"] if sample["corpus"] == name] for name in corpora.ALL}
    return {name: Results(samples) for name, samples in found.items() if samples}

def markdown(data):
    small = " **Each corpus is about a hundredth of what is said of it: a trial of the script, not a measurement.**"
    lines = ["# vault and its peers, measured", "",
             f"{data['date']}, {data['machine']}. Wall seconds of the whole process [peak memory of the largest process"
             f" in MiB], medians of {data['runs']} runs in turn; page cache warm, repository and restore target on"
             f" {data['medium']}. The last columns: vault divided by the best peer, below 1 is better."
             + (small if data["small"] else ""),
             ""]
    if data["versions"]:
        lines += ["; ".join(f"{name} is {version}" for name, version in data["versions"].items()) + ".", ""]
    for name, results in by_corpus(data).items():
        ours = [program for program in results.programs if program.kind == "vault"]
        titles = [program.title or program.key for program in results.programs]
        titles += [f"{program.title or program.key} / best" for program in ours]
        lines += [f"## {name}", "", f"{corpora.ALL[name][2]}.", "", f"| {name} | {' | '.join(titles)} |",
                  "|---" + "|---:" * len(titles) + "|"]
        for stage in results.stages:
            cells = [results.cell(stage, program) for program in results.programs]
            cells += [results.ratio(stage, program.key) for program in ours]
            lines.append(f"| {STAGES[stage]} | {' | '.join(cells)} |")
        notes = [f"- {program.key}, {STAGES[stage]}: {': '.join(trouble)}" for stage in results.stages
                 for program in results.programs if (trouble := results.trouble(stage, program))]
        lines += ["", *notes, ""] if notes else [""]
    return "\n".join(lines).rstrip() + "\n"

INK, DARK_INK = "#24292f", "#e6edf3"
COLOURS = {"vault": "#2f81f7", "peer": "#8b949e", "baseline": "#c9b38a"}

def chart(data, path):
    """A panel for each stage of each corpus, a bar for each program. Needs matplotlib."""
    import matplotlib
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "peers", "font.size": 8, "text.color": INK,
                         "ytick.color": INK, "axes.titlecolor": INK})
    found = by_corpus(data)
    wide = max(len(results.stages) for results in found.values())
    heights = [len(results.programs) + 2 for results in found.values()]
    figure, grid = plt.subplots(len(found), wide, squeeze=False, figsize=(2.1 * wide + 1, 0.2 * sum(heights)),
                                height_ratios=heights, layout="constrained")
    for (name, results), row in zip(found.items(), grid):
        shown = results.programs[::-1]
        names = [(program.title or program.key).replace("`", "").replace("\\", "") for program in shown]
        for panel in row:
            panel.set_axis_off()
        for stage, panel in zip(results.stages, row):
            panel.set_axis_on()
            figures = [results.figure(stage, program) or 0 for program in shown]
            bars = panel.barh(range(len(shown)), figures, color=[COLOURS[program.kind] for program in shown])
            labels = [results.cell(stage, program).replace(" [", " s [").split(" [")[0] for program in shown]
            panel.bar_label(bars, labels, padding=2)
            panel.set_title(f"{name}: {STAGES[stage]}".replace("`", ""), loc="left", fontsize=8, fontweight="bold")
            panel.set_yticks(range(len(shown)), names if panel is row[0] else [])
            panel.tick_params(length=0)
            panel.set_xticks([])
            panel.set_xlim(0, max(figures) * 1.5 or 1)
            panel.set_frame_on(False)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    plt.close(figure)
    # Legible on a dark page too.
    dark = f'@media (prefers-color-scheme: dark) {{ [style*="{INK}"] {{ fill: {DARK_INK} !important }} }}'
    path.write_text(path.read_text().replace("<defs>", f"<style>{dark}</style>\n<defs>", 1))
