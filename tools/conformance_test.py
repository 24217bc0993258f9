"""tools/conformance: labels, outcomes and the check that the committed register is up to date."""
import importlib.machinery
import importlib.util
import os
import tempfile
import unittest

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "conformance")
loader = importlib.machinery.SourceFileLoader("conformance", TOOL)
conformance = importlib.util.module_from_spec(importlib.util.spec_from_loader("conformance", loader))
loader.exec_module(conformance)

IDS = {"arch.1.1": ("reads | checks", "reference/forward 1.1"), "infra.K5": ("same bits", "reference/infrastructure 4.4")}
JUNIT = """<testsuite name="x">
<testcase name="Pool.A" status="run"/>
<testcase name="Pool.B" status="notrun"><skipped message="SKIP_REGULAR_EXPRESSION_MATCHED"/></testcase>
<testcase name="Pool.C" status="fail"><failure message=""/></testcase>
</testsuite>"""


class Conformance(unittest.TestCase):
    def outcomes(self):
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(JUNIT)
            file.flush()
            return conformance.read_outcomes([file.name])

    def test_reads_outcomes(self):
        self.assertEqual(self.outcomes(), {"Pool.A": "passed", "Pool.B": "skipped", "Pool.C": "failed"})

    def test_a_skipped_or_failed_or_absent_test_is_never_passed(self):
        outcomes = self.outcomes()
        self.assertEqual(conformance.result_cell(["Pool.A"], outcomes), "passed")
        self.assertEqual(conformance.result_cell(["Pool.A", "Pool.B"], outcomes), "passed 1, skipped 1")
        self.assertEqual(conformance.result_cell(["Pool.A", "Pool.C"], outcomes), "**failed 1 of 2**")
        self.assertEqual(conformance.result_cell(["Pool.D"], outcomes), "not run 1")
        self.assertEqual(conformance.result_cell([], outcomes), "open")

    def test_instruction_sets_of_a_test_are_one_case_and_the_worst_counts(self):
        cases = "".join(f'<testcase name="Isa/Row.Adds/{isa}  # GetParam() = 4" status="run">{inside}</testcase>'
                        for isa, inside in (("avx2", ""), ("avx512", "<failure/>"), ("avx512bf16", "")))
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(f"<testsuite>{cases}</testsuite>")
            file.flush()
            self.assertEqual(conformance.read_outcomes([file.name]), {"Row.Adds": "failed"})
        self.assertEqual(conformance.case_of("Isa/Row.Adds/avx512"), "Row.Adds")
        self.assertEqual(conformance.case_of("All/Rope.Case/3"), "All/Rope.Case/3")

    def test_unknown_labels_are_errors(self):
        self.assertEqual(conformance.check_labels({"Pool.A": ["fast", "infra.K5"]}, IDS), [])
        errors = conformance.check_labels({"Pool.A": ["fast", "infra.K55"], "Pool.B": ["Slow"]}, IDS)
        self.assertEqual(len(errors), 2)
        self.assertIn("infra.K55", errors[0])

    def test_parametrised_cases_count_for_their_suite(self):
        self.assertEqual(conformance.suite_of("All/Rope.Case/3"), "Rope")
        self.assertEqual(conformance.suite_of("Rope.Case<std::pair<int, float>>"), "Rope")
        self.assertEqual(conformance.tests_cell(["A.1", "A.2", "A.3", "B.1"]), "`A` (3), `B` (1)")

    def test_a_reason_belongs_to_an_open_id(self):
        reasons = {"arch.1.1": "a | reason", "infra.K5": "stale", "infra.K55": "unknown"}
        errors = conformance.check_reasons({"Pool.A": ["fast", "infra.K5"]}, IDS, reasons)
        self.assertEqual(len(errors), 2)
        self.assertIn("infra.K5: expected an open id of docs/conformance_ids.tsv, found one that has a test", errors[0])
        self.assertIn("infra.K55", errors[1])
        self.assertIn("| arch.1.1 | reads \\| checks | 1.1 | a \\| reason | open |", self.render({}, {}, reasons))

    def render(self, tests, outcomes, reasons={}):
        rows = conformance.property_rows(IDS, tests, outcomes, reasons)
        return "\n".join(conformance.render(rows, outcomes, len(tests), "2026-01-02"))

    def test_the_date_is_that_of_the_results(self):
        def days(*stamps):
            with tempfile.TemporaryDirectory() as folder:
                paths = []
                for i, stamp in enumerate(stamps):
                    paths.append(os.path.join(folder, f"{i}.xml"))
                    with open(paths[-1], "w", encoding="utf-8") as file:
                        file.write(f"<testsuite {stamp}/>")
                return conformance.result_days(paths)
        self.assertEqual(days('timestamp="2026-01-02T03:04:05"'), "2026-01-02")
        self.assertEqual(days('timestamp="2026-01-04T03:04:05"', 'timestamp="2026-01-02T23:59:59"'), "2026-01-02 to 2026-01-04")
        self.assertEqual(days(), "")
        with self.assertRaises(SystemExit):
            days('timestamp="2026-01-02T03:04:05"', "")
        self.assertIn("Results of 2026-01-02: 1 tests", self.render({"Pool.A": ["fast"]}, {"Pool.A": "passed"}))

    def test_the_check_ignores_results_and_sees_a_new_test(self):
        tests = {"Pool.A": ["fast", "infra.K5"]}
        written = self.render(tests, {"Pool.A": "passed"})
        self.assertIn("| infra.K5 | same bits | 4.4 | `Pool.A` | passed |", written)
        self.assertIn("| arch.1.1 | reads \\| checks | 1.1 |  | open |", written)
        self.assertEqual(conformance.without_results(written), conformance.without_results(self.render(tests, {})))
        more = {**tests, "Pool.B": ["fast", "infra.K5"]}
        self.assertNotEqual(conformance.without_results(written), conformance.without_results(self.render(more, {})))


if __name__ == "__main__":
    unittest.main()
