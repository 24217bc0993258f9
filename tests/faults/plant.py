#!/usr/bin/env python3
"""Plants every fault of a folder of patches in copies of the sources they touch, each behind a switch of its own.

  plant.py --patches tests/faults/patches --source . --out build/release/tests/faults/planted

NAME.patch is one fault: a unified diff against the sources, as `git apply` would take it, under a few words on the bug. All
are planted in one copy, so one build holds them all:

  a change in a function   becomes `if (switch) { new lines } else { old lines }`: the lines it replaces must be whole statements
                           that declare nothing
  new lines at column 0    (an #include, a helper) stay as they are

Writes OUT/<path of the source> for each touched source and OUT/planted.cpp with the switches (tests/faults/planted.h), and
prints the paths of all these. A file whose text stays the same is not written again. Exit status 1 and one line for each patch
that does not apply in exactly one place, or collides with another."""
import argparse
import collections
import os
import re
import sys

# One run of changed lines: the fault, where it begins in the source (a line's index), the lines there and those in their place.
Edit = collections.namedtuple("Edit", "fault begin old new")


class Refused(Exception):
    pass


def read_hunks(path):
    """[(file, [(sign, line)])] of a unified diff; the numbers in its @@ lines are not needed."""
    hunks, file = [], None
    with open(path, encoding="utf-8") as lines:
        for line in lines.read().splitlines():
            if line.startswith("--- "):
                file = None
            elif line.startswith("+++ b/"):
                file = line[len("+++ b/"):]
            elif line.startswith("@@ ") and file:
                hunks.append((file, []))
            elif file and hunks and (line == "" or line[0] in " +-"):
                hunks[-1][1].append((line[:1] or " ", line[1:]))
    if not hunks:
        raise Refused(f"{path}: expected a unified diff with lines \"+++ b/FILE\" and \"@@\", found none")
    return hunks


def find(source, wanted):
    """The indices at which the lines `wanted` stand in `source`."""
    return [at for at in range(len(source) - len(wanted) + 1) if source[at:at + len(wanted)] == wanted]


def edits_of(fault, patch, file, hunk, source):
    places = find(source, [text for sign, text in hunk if sign != "+"])
    if len(places) != 1:
        raise Refused(f"{patch}: {file}: expected its lines in one place, found them in {len(places)}; the hunk begins "
                      f"\"{hunk[0][1].strip()}\"")
    edits, at, previous = [], places[0], " "
    for sign, text in hunk:
        if sign != " " and previous == " ":
            edits.append(Edit(fault, at, [], []))
        if sign == "+":
            edits[-1].new.append(text)
        else:
            if sign == "-":
                edits[-1].old.append(text)
            at += 1
        previous = sign
    return edits


def ends_statement(lines):
    """Whether a statement may begin below these lines, as far as the last of them tells."""
    last = next((line for line in reversed(lines) if line.strip()), "")
    code = re.sub(r"\s*//.*", "", last)
    return not code or code.startswith("#") or code.endswith((";", "{", "}", ":"))


def is_conditional(edit, file, source):
    """False for lines that stay as they are: those at column 0 lie outside functions."""
    first = next((line for line in edit.new + edit.old if line), " ")
    if not first.startswith(" "):
        if edit.old:
            raise Refused(f"{edit.fault}: {file}: expected only new lines at column 0, found a change of \"{edit.old[0]}\"")
        return False
    if not all(ends_statement(lines) for lines in (source[:edit.begin], edit.old, edit.new)):
        raise Refused(f"{edit.fault}: {file}: expected changes of whole statements, found a part at \"{first.strip()}\"")
    return True


def switch(fault):
    return fault.replace("-", "_")


def planted(file, source, edits):
    """The lines of the copy. Edits in order of their place; of those in one place, in order of their fault."""
    places = collections.defaultdict(list)
    for edit in edits:
        places[edit.begin, len(edit.old)].append(edit)
    lines, done = [], 0
    for (begin, num_old), here in sorted(places.items()):
        if begin < done:
            raise Refused(f"{here[0].fault}: {file}: collides with {previous.fault}: they change lines in common, not the same")
        lines += source[done:begin]
        unconditional = [edit for edit in here if not is_conditional(edit, file, source)]
        conditional = [edit for edit in here if edit not in unconditional]
        for edit in unconditional:
            lines += edit.new
        for number, edit in enumerate(conditional):
            lines += [f"{'} else ' if num_old and number else ''}if (::cachalot::planted::{switch(edit.fault)}) {{", *edit.new]
            if not num_old:
                lines.append("}")
        if num_old:
            lines += ["} else {", *source[begin:begin + num_old], "}"]
        done, previous = begin + num_old, here[0]
    names = sorted({switch(edit.fault) for edit in edits})
    declarations = ["namespace cachalot::planted {", "extern bool " + ", ".join(names) + ";", "}"]
    return declarations + lines + source[done:]


def switches(faults):
    names = [switch(fault) for fault in faults]
    yield '#include "planted.h"\n'
    yield "namespace cachalot::planted {\n"
    yield from (f"bool {name} = false;" for name in names)
    yield "\nstd::span<const Switch> switches() {"
    yield "  static constexpr Switch kAll[] = {"
    yield from (f'      {{"{fault}", &{name}}},' for fault, name in zip(faults, names))
    yield "  };\n  return kAll;\n}\n\n}  // namespace cachalot::planted"


def write(path, lines):
    text = "\n".join(lines) + "\n"
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            if file.read() == text:
                return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def plant(patches, root):
    """{file: lines of its copy}, with planted.cpp, and what was refused."""
    edits, sources, errors = collections.defaultdict(list), {}, []
    for patch in patches:
        fault = os.path.basename(patch).removesuffix(".patch")
        if not re.fullmatch(r"[a-z0-9]+([-_][a-z0-9]+)*", fault):
            errors.append(f"{patch}: expected a name of a-z, 0-9, - and _, found \"{fault}\"")
            continue
        try:
            for file, hunk in read_hunks(patch):
                if file not in sources:
                    if not file.endswith(".cpp") or not os.path.exists(os.path.join(root, file)):
                        raise Refused(f"{patch}: {file}: expected a .cpp of the sources, found none")
                    with open(os.path.join(root, file), encoding="utf-8") as text:
                        sources[file] = text.read().splitlines()
                edits[file] += edits_of(fault, patch, file, hunk, sources[file])
        except Refused as error:
            errors.append(str(error))
    copies = {}
    for file in sorted(edits):
        try:
            copies[file] = planted(file, sources[file], edits[file])
        except Refused as error:
            errors.append(str(error))
    copies["planted.cpp"] = switches([os.path.basename(patch).removesuffix(".patch") for patch in patches])
    return copies, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    patches = sorted(os.path.join(args.patches, name) for name in os.listdir(args.patches) if name.endswith(".patch"))
    copies, errors = plant(patches, args.source)
    if errors:
        print("\n".join(errors), file=sys.stderr)
        return 1
    for file, lines in copies.items():
        write(os.path.join(args.out, file), lines)
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
