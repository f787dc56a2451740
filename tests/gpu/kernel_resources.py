"""The table of kernel_resources.sh: kernel_resources.py ARCHITECTURE FOLDER, where ptxas's words are *.log and shared.txt,
if it is there, has "SHARED_BYTES NAME" of kernels that were launched."""

import os
import pathlib
import re
import subprocess
import sys


def demangled(names):
  text = subprocess.run(['c++filt'], input='\n'.join(names), capture_output=True, text=True, check=True).stdout
  return dict(zip(names, text.splitlines()))


def short(name):
  """'void vitscale::cuda::(anonymous namespace)::Forward<4, float>(Args)' -> 'Forward<4, float>'"""
  for noise in ('vitscale::cuda::', '(anonymous namespace)::', '<unnamed>::', 'vitscale::', 'std::'):
    name = name.replace(noise, '')
  name = re.sub(r'\((int|bool|long)\)', '', name)
  name = re.sub(r'^void ', '', name)
  return re.sub(r'\(.*$', '', name)


def read_log(path):
  """[(mangled name, registers, spilled bytes stored, loaded, stack)]"""
  kernels, name = [], None
  for line in path.read_text().splitlines():
    if found := re.search(r"Compiling entry function '(\w+)'", line):
      name = found.group(1)
      stack = stored = loaded = 0
    elif found := re.search(r'(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads', line):
      stack, stored, loaded = map(int, found.groups())
    elif (found := re.search(r'Used (\d+) registers', line)) and name:
      kernels.append((name, int(found.group(1)), stored, loaded, stack))
      name = None
  return kernels


def release():
  """'CUDA 13.0'"""
  text = subprocess.run([os.environ.get('CUDACXX', 'nvcc'), '--version'], capture_output=True, text=True, check=True).stdout
  return 'CUDA ' + re.search(r'release ([\d.]+)', text).group(1)


def main(architecture, folder):
  folder = pathlib.Path(folder)
  shared = {}
  if (folder / 'shared.txt').exists():
    for line in (folder / 'shared.txt').read_text().splitlines():
      number, name = line.split(' ', 1)
      shared[short(name)] = max(shared.get(short(name), 0), int(number))
  print(f'# Kernels for sm_{architecture}\n\nPrinted by `tests/gpu/kernel_resources.sh {architecture}` (ptxas -v of '
        f'{release()}; no card needed). Shared memory is\nwhat a launch asked for at most in the tests of '
        'tests/cuda_on_cpu; empty: they do not launch the kernel.\n')
  print('| file | kernel | registers | spilled, B stored / loaded | stack, B | shared, B |\n|---|---|---|---|---|---|')
  count = spilling = 0
  compiled = set()
  for path in sorted(folder.glob('*.log')):
    kernels = read_log(path)
    names = demangled([kernel[0] for kernel in kernels]) if kernels else {}
    for mangled, registers, stored, loaded, stack in sorted(kernels, key=lambda kernel: short(names[kernel[0]])):
      name = short(names[mangled])
      count, spilling = count + 1, spilling + (stored > 0)
      compiled.add(name)
      print(f'| {path.name[:-4]} | `{name}` | {registers} | {stored} / {loaded} | {stack} | {shared.get(name, "")} |')
  print(f'\n{count} kernels, {spilling} of them spill.', end=' ')
  print(f'{len(compiled & shared.keys())} of {len(compiled)} names are launched by the tests.' if shared else '')


main(sys.argv[1], sys.argv[2])
