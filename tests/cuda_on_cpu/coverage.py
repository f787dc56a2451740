"""Adds up gcov's counters of kernels/cuda over all objects: a line counts as executed if any object executed it.

coverage.sh runs it: coverage.py BUILD [-v].
"""

import collections
import json
import pathlib
import subprocess
import sys


def read_counters(build):
  """{file: {line: times executed}} of files under kernels/cuda."""
  counters = collections.defaultdict(lambda: collections.defaultdict(int))
  for notes in sorted(pathlib.Path(build).rglob('*.dir/**/kernels/cuda/**/*.gcno')):
    text = subprocess.run(['gcov', '--json-format', '--stdout', str(notes)], check=True, capture_output=True).stdout
    for report in text.splitlines():
      for file in json.loads(report)['files']:
        name = file['file'].split('kernels/cuda/')
        if len(name) < 2:
          continue
        for line in file['lines']:
          counters[name[1]][line['line_number']] += line['count']
  return counters


def main(build, verbose):
  counters = read_counters(build)
  executed = total = 0
  for name in sorted(counters):
    lines = counters[name]
    done = sum(1 for count in lines.values() if count > 0)
    executed, total = executed + done, total + len(lines)
    print(f'{100 * done / len(lines):6.1f} %  {done:4} of {len(lines):4}  {name}')
    missing = sorted(line for line, count in lines.items() if count == 0)
    if verbose and missing:
      print(f'          never: {", ".join(map(str, missing))}')
  if total == 0:
    sys.exit(f'no counters under {build}')
  print(f'{100 * executed / total:6.1f} %  {executed:4} of {total:4}  kernels/cuda')


main(sys.argv[1], '-v' in sys.argv[2:])
