"""Runs test files of clients and says how it ended in one line. A skipped test counts as failed: run.py FILE ..."""

import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def main():
    suite = unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:])
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    bad = len(result.failures) + len(result.errors) + len(result.skipped) + len(result.unexpectedSuccesses)
    for test, reason in result.skipped:
        print(f"skipped, which counts as failed: {test}: {reason}")
    print(f"{max(result.testsRun - bad, 0)} passed, {bad} failed")
    return 0 if bad == 0 and result.testsRun > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
