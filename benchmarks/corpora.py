"""Real English texts by the hundred thousand, built from Debian packages, never shipped.

    python -m benchmarks.corpora glosses+entries 200000 out.jsonl

=============  ========================================  ==========  ==========
name           what                                           texts  mean words
=============  ========================================  ==========  ==========
glosses        definitions of WordNet                       117,659          12
entries        entries of GCIDE, a dictionary               126,236          43
descriptions   Debian packages, in their own words           64,512          61
pairs          a gloss and an entry, no two alike        no limit          55
=============  ========================================  ==========  ==========

Names joined by `+` follow one another. The same archive gives the same bytes; exact duplicates
among the texts are kept except in `pairs`, and ids never repeat. Lines are in BEIR layout:
`_id`, `title` (empty), `text`.

apt fetches with lists and a cache of its own, so this needs no root and changes nothing outside
the cache folder. GCIDE is under the GPL: do not commit what is built from it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

CACHE = Path("build/corpora")
APT_HELPER = Path("/usr/lib/apt/apt-helper")
DICTD_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

Text = tuple[str, str]
"""An id and a text: no line breaks, no runs of white space (`pairs` has one line break)."""


class CorpusUnavailable(Exception):
    """A corpus cannot be built here, or not as large as was asked for."""


def corpus(name: str, size: int, cache: Path = CACHE) -> Path:
    """The JSONL file of the first `size` texts of `name`, built when it is not in `cache`.

    Raises CorpusUnavailable without apt, without the archive, and when `name` has fewer texts.
    """
    path = cache / f"{name}-{size}.jsonl"
    if not path.exists():
        write(texts(name, cache), size, path)
    return path


def write(records: Iterable[Text], size: int, path: Path) -> None:
    """Write the first `size` records, and the file appears only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    written = 0
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as lines:
            for key, text in islice(records, size):
                record = {"_id": key, "title": "", "text": text}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
                written += 1
        if written < size:
            raise CorpusUnavailable(f"{size:,} texts were asked for, there are {written:,}")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def texts(name: str, cache: Path = CACHE) -> Iterator[Text]:
    """Every text of a corpus, or of several joined by `+`, in an order that never changes."""
    names = name.split("+")
    unknown = sorted(set(names) - BUILDERS.keys())
    if unknown or len(set(names)) < len(names):
        found = f"there is no corpus {unknown[0]!r}" if unknown else "a corpus is named twice"
        raise CorpusUnavailable(f"{found}; there are {', '.join(BUILDERS)}")
    return chain.from_iterable(BUILDERS[one](cache) for one in names)


# -- the corpora ------------------------------------------------------------------------------


def _glosses(cache: Path) -> Iterator[Text]:
    folder = _unpacked("wordnet-base", cache) / "usr/share/wordnet"
    for part in ("noun", "verb", "adj", "adv"):
        with (folder / f"data.{part}").open(encoding="utf-8") as lines:
            for line in lines:
                if line[0].isdigit():  # the licence above the data is indented
                    synset, _, gloss = line.partition(" | ")
                    yield f"wordnet-{part}-{synset.split()[0]}", _one_line(gloss)


def _entries(cache: Path) -> Iterator[Text]:
    folder = _unpacked("dict-gcide", cache) / "usr/share/dictd"
    # The index has a line a headword: several name the same entry, which is meant once.
    places = set()
    with (folder / "gcide.index").open(encoding="utf-8") as lines:
        for line in lines:
            word, *place = line.rstrip("\n").split("\t")
            if not word.startswith("00-"):  # the database about itself
                start, length = map(_dictd_number, place)
                places.add((start, length))
    dictionary = gzip.decompress((folder / "gcide.dict.dz").read_bytes())
    for start, length in sorted(places):
        # Three entries hold a byte that is no UTF-8.
        text = dictionary[start : start + length].decode("utf-8", "replace")
        yield f"gcide-{start}", _one_line(text)


def _descriptions(cache: Path) -> Iterator[Text]:
    lists = sorted(_lists(cache).glob("*Translation-en*"))
    stanzas = _run([str(APT_HELPER), "cat-file", *map(str, lists)], cwd=cache).split("\n\n")
    pattern = re.compile(r"\s*Package: (\S+)\nDescription-md5: (\S+)\nDescription-en: (.*)", re.S)
    matches = [match.groups() for match in map(pattern.match, stanzas) if match]
    # A package that was updated is described in several lists: one description is kept.
    described: dict[str, str] = {}
    for package, _, text in sorted(matches):
        described.setdefault(package, text)
    for package, text in described.items():
        yield f"debian-{package}", _one_line(text.replace("\n .\n", "\n"))


def _pairs(cache: Path) -> Iterator[Text]:
    glosses, entries = _distinct(_glosses(cache)), _distinct(_entries(cache))
    for turn in range(len(entries)):
        for place, (gloss_id, gloss) in enumerate(glosses):
            entry_id, entry = entries[(place + turn) % len(entries)]
            # Neither part holds a line break, so no two pairs can read the same.
            yield f"{gloss_id}+{entry_id}", f"{gloss}\n{entry}"


BUILDERS: dict[str, Callable[[Path], Iterator[Text]]] = {
    "glosses": _glosses,
    "entries": _entries,
    "descriptions": _descriptions,
    "pairs": _pairs,
}


def _distinct(records: Iterable[Text]) -> list[Text]:
    first: dict[str, str] = {}
    for key, text in records:
        first.setdefault(text, key)
    return [(key, text) for text, key in first.items()]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _dictd_number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + DICTD_DIGITS.index(digit)
    return value


# -- apt --------------------------------------------------------------------------------------


def _unpacked(package: str, cache: Path) -> Path:
    """The folder with the files of a Debian package, fetched when it is not in the cache."""
    folder = cache / "packages" / package
    if not folder.exists():
        _lists(cache)
        fetched = cache / "fetched"
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        _run(["apt-get", *_apt_options(cache), "download", package], cwd=fetched)
        (archive,) = fetched.glob("*.deb")
        _run(["dpkg-deb", "-x", archive.name, "files"], cwd=fetched)
        folder.parent.mkdir(exist_ok=True)
        (fetched / "files").replace(folder)
        shutil.rmtree(fetched)
    return folder


def _lists(cache: Path) -> Path:
    """The folder with the package lists of this machine's sources, English descriptions included.

    Fetched once: delete the cache to follow the archive.
    """
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing or not APT_HELPER.exists():
        raise CorpusUnavailable(
            f"{(missing or [str(APT_HELPER)])[0]} is not on this machine, and the texts come from"
            " Debian packages: build them on Debian or Ubuntu (a container will do)"
        )
    apt = (cache / "apt").resolve()
    complete = apt / "complete"
    if not complete.exists():
        for folder in ("lists", "archives"):
            (apt / folder / "partial").mkdir(parents=True, exist_ok=True)
        _run(["apt-get", *_apt_options(cache), "update", "--error-on=any"], cwd=cache)
        complete.touch()
    return apt / "lists"


def _apt_options(cache: Path) -> list[str]:
    apt = (cache / "apt").resolve()
    # Containers are often told to fetch no descriptions at all, hence the language.
    settings = {
        "Dir::State::Lists": f"{apt}/lists",
        "Dir::Cache": str(apt),
        "Acquire::Languages": "en",
        "APT::Sandbox::User": "root",
    }
    return ["-qq", *(f"-o{name}={value}" for name, value in settings.items())]


def _run(command: list[str], cwd: Path) -> str:
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        tool = " ".join(word for word in command if not word.startswith("-o"))
        raise CorpusUnavailable(f"`{tool}` failed:\n{done.stderr.strip()}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.corpora", description=__doc__.split("\n")[0])
    parser.add_argument("name", help=f"{', '.join(BUILDERS)}, or several joined by +")
    parser.add_argument("size", type=int, help="how many texts")
    parser.add_argument("output", type=Path, help="the JSONL file to write")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"default: {CACHE}")
    options = parser.parse_args(arguments)
    try:
        write(texts(options.name, options.cache), options.size, options.output)
    except CorpusUnavailable as error:
        sys.exit(f"corpora: {error}")


if __name__ == "__main__":
    main()
