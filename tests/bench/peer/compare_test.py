"""compare.py with programs that only print. Standard library alone: python3 -m unittest compare_test"""

import contextlib
import io
import json
import pathlib
import stat
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import compare  # noqa: E402

# Ours: 30 images/s at a ceiling that is read from a file, so that a test can move it.
BENCH = """#!{python}
import json, pathlib, sys
here = pathlib.Path({folder!r})
with open(here / "calls", "a") as calls: calls.write(sys.argv[1] + "\\n")
if sys.argv[1] == "ceiling":
    values = json.loads((here / "ceilings").read_text())
    (here / "ceilings").write_text(json.dumps(values[1:] or values))
    print(json.dumps({{"ceiling_flops_per_second": values[0]}}))
else:
    print(json.dumps({{"images_per_second": 30.0, "flops_per_second": 60.0, "peak_rss_bytes": 1e9,
                       "parameters": 7, "train_gflop_per_image": 2.0}}))
"""
# The peer: faster when compiled.
PEER = """
import json, pathlib, sys
with open(pathlib.Path({folder!r}) / "calls", "a") as calls: calls.write("peer\\n")
rate = 20.0 if sys.argv[sys.argv.index("--mode") + 1] == "compile" else 10.0
print("a line of chatter")
print(json.dumps({{"images_per_second": rate, "flops_per_second": 2 * rate, "peak_rss_bytes": 2e9,
                   "parameters": {parameters}, "train_gflop_per_image": 2.0}}))
"""


class CompareTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.write_peer(parameters=7)
        bench = self.folder / "bench"
        bench.write_text(BENCH.format(python=sys.executable, folder=str(self.folder)))
        bench.chmod(bench.stat().st_mode | stat.S_IXUSR)
        self.ceilings(100.0)

    def write_peer(self, parameters):
        (self.folder / "peer.py").write_text(PEER.format(folder=str(self.folder), parameters=parameters))

    def ceilings(self, *values):
        (self.folder / "ceilings").write_text(json.dumps(values))

    def calls(self):
        return (self.folder / "calls").read_text().split()

    def run_compare(self, *flags):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            code = compare.main([
                "--rows", "s16-bf16", "--settings", "eager,compile", "--rounds", "2",
                "--bench", str(self.folder / "bench"), "--python", sys.executable,
                "--peer", str(self.folder / "peer.py"), "--out", str(self.folder / "out.jsonl"), *flags,
            ])  # fmt: skip
        return code, out.getvalue()

    def records(self):
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]

    def test_takes_turns_with_the_faster_setting_and_prints_the_ratio(self):
        code, table = self.run_compare()
        self.assertEqual(code, 0)
        turns = ["ceiling", "step", "ceiling", "peer", "ceiling", "ceiling", "peer", "ceiling", "step", "ceiling"]
        self.assertEqual(self.calls(), ["peer", "peer"] + turns)
        ours, peer = ["30 (30–30)", "60.0 (60.0–60.0)"], ["20 (20–20)", "40.0 (40.0–40.0)"]
        for cell in ours + peer + ["1.50 (1.50–1.50)", "1.00 / 2.00 = 0.50", "compile"]:
            self.assertIn(f"| {cell} |", table)

    def test_a_round_whose_ceiling_moved_is_repeated_and_does_not_count(self):
        self.ceilings(100.0, 94.0, 100.0, 100.0)
        self.assertEqual(self.run_compare()[0], 0)
        self.assertEqual([r["counts"] for r in self.records() if r["kind"] == "round"], [False, True, True])

    def test_goes_on_where_it_stopped_even_after_a_line_cut_short(self):
        self.assertEqual(self.run_compare("--tries", "1")[0], 1)
        with open(self.folder / "out.jsonl", "a", encoding="utf-8") as out:
            out.write('{"kind": "rou')
        before = len(self.calls())
        self.assertEqual(self.run_compare()[0], 0)
        self.assertEqual(len(self.calls()) - before, 5)
        before = len(self.calls())
        self.assertEqual(self.run_compare()[0], 0)
        self.assertEqual(len(self.calls()), before)

    def test_gives_up_when_the_ceiling_never_stands_still(self):
        self.ceilings(*[100.0, 50.0] * 20)
        code, table = self.run_compare("--tries", "3")
        self.assertEqual(code, 1)
        self.assertIn("no round that counts", table)

    def test_refuses_to_compare_different_models(self):
        self.write_peer(parameters=8)
        with self.assertRaisesRegex(SystemExit, "parameters of ours is 7, of the peer 8"):
            self.run_compare()

    def test_refuses_an_unknown_row(self):
        with self.assertRaises(SystemExit) as raised:
            self.run_compare("--rows", "g14")
        self.assertEqual(raised.exception.code, 2)


if __name__ == "__main__":
    unittest.main()
