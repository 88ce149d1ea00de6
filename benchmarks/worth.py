"""`python -m benchmarks.worth`: docs/worth.md and its picture, from the results that are there."""

from pathlib import Path

from benchmarks import experts, peers
from benchmarks.experts import page as of_experts
from benchmarks.peers import page as of_peers
from train.system.write import write_text

PAGE = Path("docs/worth.md")


def main() -> None:
    """Writes both."""
    of_each = [Path(package.__path__[0]) / "results" for package in (peers, experts)]
    sections = [*of_peers.sections(of_each[0]), *of_experts.sections(of_each[1])]
    of_peers.plot(of_each[0], PAGE.with_suffix(".png"))
    write_text(PAGE, "\n".join(sections))


if __name__ == "__main__":
    main()
