"""How often `segtwin diagnose` is right: every bug of `parity_tests/broken_ports.py` and twenty pairs of them, each in
a port that can be looked into and in one that is a function alone.

    PYTHONPATH=parity_tests python benchmarks/diagnosis.py
"""

import time
from collections.abc import Iterator

import segtwin_engines
import torch
from broken_ports import FCN, PAIRS, UNET, build
from segtwin_engines.ports import Port


def trials() -> Iterator[tuple[str, tuple[str, ...], set[str]]]:
    for bug, cause in FCN.items():
        yield "fcn8s", (bug,), {cause}
    for bug, cause in UNET.items():
        yield "unet", (bug,), {cause}
    for pair in PAIRS:
        yield "fcn8s", pair, {FCN[bug] for bug in pair}


def main() -> None:
    right: dict[tuple[int, str], list[bool]] = {}
    for network, bugs, causes in trials():
        module, weights = build(network, *bugs)
        for kind in ("module", "function"):
            port = module if kind == "module" else Port.of_function(lambda x, m=module: m(torch.from_numpy(x.copy())))
            begun = time.perf_counter()
            with torch.no_grad():
                found = segtwin_engines.diagnose(port, network, weights)
            named = {cause.id for cause in found.causes}
            good = named == causes
            right.setdefault((len(bugs), kind), []).append(good)
            print(
                f"{'right' if good else 'WRONG'} {network} {' + '.join(bugs)} ({kind}, "
                f"{time.perf_counter() - begun:.1f} s): {found.first_difference}: {', '.join(sorted(named)) or '–'}",
                flush=True,
            )
    for (count, kind), results in sorted(right.items()):
        print(f"{'single bugs' if count == 1 else 'pairs'} in a {kind}: {sum(results)} of {len(results)}")


if __name__ == "__main__":
    main()
