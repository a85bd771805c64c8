"""What pytest gets with isoplug: fixtures that load plugins and close them after the test, and faults as a marker.

    @pytest.mark.isoplug_faults("kill", every=3)
    def test_it_counts_words(isoplug_plugin, isoplug_faults):
        plugin = isoplug_plugin("target/plugin.wasm", workspace={"a.md": "two words"})
        for _ in range(10):
            assert plugin.command("count", {"path": "a.md"}, retries=3) == {"words": 2}
        isoplug_faults.assert_promises()

``isoplug_faults("kill", every=3)`` takes a fault's name and its parameters, or a ``Fault``, and the fields of a
``Rule``; or a whole ``Plan``. Several markers add up, the upper one first. What is left to chance depends on a seed,
which is another one each time, or that of the first ``Plan``; a test that fails says which, and ``--isoplug-seed``
repeats it.

pytest imports this module at the start of each of its runs, wherever isoplug is installed, so it imports nothing else
at its top; ``-p no:isoplug`` leaves it out.
"""

from __future__ import annotations

import os
import random
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from isoplug.supervisor.chaos import Plan, Rule
    from isoplug.supervisor.testing.faults import Faults
    from isoplug.supervisor.testing.folder import SupervisorHarness
    from isoplug.supervisor.testing.harness import PluginHarness

__all__ = [
    "LoadPlugin",
    "LoadPlugins",
    "isoplug_faults",
    "isoplug_plugin",
    "isoplug_supervisor",
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_configure",
    "pytest_runtest_makereport",
]

_OPTION = "isoplug_plugin"
_SEED = "isoplug_seed"
_MARKER = "isoplug_faults"
_MARKER_HELP = (
    f"{_MARKER}(fault, *, every=, probability=, at=, after_seconds=, times=, plugin=, export=, function=, ...): "
    "a fault for what isoplug's fixtures load, by name, with its parameters, or as a Fault; or a whole Plan. See "
    "isoplug.supervisor.chaos."
)
_MAX_SEED = 2**32
_faults_of_test = pytest.StashKey["Faults"]()


class LoadPlugin(Protocol):
    """What the fixture ``isoplug_plugin`` is."""

    def __call__(self, wasm: str | os.PathLike[str] | bytes | None = None, **arguments: Any) -> PluginHarness:
        """A harness, closed after the test. ``arguments`` are those of ``PluginHarness``.

        ``wasm``: relative paths count from pytest's root folder. None: what ``--isoplug-plugin`` or the ini key
        ``isoplug_plugin`` names.
        """
        ...


class LoadPlugins(Protocol):
    """What the fixture ``isoplug_supervisor`` is."""

    def __call__(self, plugins: str | os.PathLike[str], **arguments: Any) -> SupervisorHarness:
        """A harness, closed after the test. ``arguments`` are those of ``SupervisorHarness``.

        ``plugins``: a folder with a folder for each plugin; relative paths count from pytest's root folder.
        """
        ...


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "the plugin.wasm that isoplug_plugin() loads when the test names none"
    group = parser.getgroup("isoplug")
    group.addoption("--isoplug-plugin", metavar="PATH", dest=_OPTION, help=text)
    group.addoption(
        "--isoplug-seed",
        metavar="N",
        dest=_SEED,
        type=int,
        help="of the faults that strike by chance: repeats what a failed test has printed",
    )
    parser.addini(_OPTION, help=f"{text}; --isoplug-plugin wins")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER_HELP)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Says all that is wrong with the markers of the tests that are to run, before any of them does."""
    problems = []
    for item in session.items:
        if item.get_closest_marker(_MARKER) is not None:
            from isoplug.shared.errors import InvalidArgument

            try:
                _plan(item, None)
                _require_fixture(item)
            except InvalidArgument as error:
                problems.append(f"{item.nodeid}: @pytest.mark.{_MARKER}: {error}")
    if problems:
        raise pytest.UsageError("\n".join(problems))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that failed under faults says which, and how to repeat them."""
    report = yield
    faults = item.stash.get(_faults_of_test, None)
    if report.failed and faults is not None and faults.plan.rules:
        repeat = f'pytest "{item.nodeid}" --isoplug-seed {faults.plan.seed}'
        report.sections.append(("isoplug faults", f"{faults}\n# repeat it with\n{repeat}"))
    return report


@pytest.fixture
def isoplug_faults(request: pytest.FixtureRequest) -> Faults:
    """What strikes this test by its markers: injections, plan, assert_promises()."""
    from isoplug.supervisor.testing.faults import Faults

    faults = Faults(_plan(request.node, request.config.getoption(_SEED)))
    request.node.stash[_faults_of_test] = faults
    return faults


@pytest.fixture
def isoplug_plugin(pytestconfig: pytest.Config, isoplug_faults: Faults) -> Iterator[LoadPlugin]:
    """Load a plugin into a real supervisor: isoplug_plugin("plugin.wasm", permissions={...}, config={...})."""
    from isoplug.supervisor.testing.harness import PluginHarness

    with ExitStack() as running:

        def load(wasm: str | os.PathLike[str] | bytes | None = None, **arguments: Any) -> PluginHarness:
            if wasm is None:
                wasm = _configured(pytestconfig)
            if not isinstance(wasm, bytes):
                wasm = pytestconfig.rootpath / wasm
            return running.enter_context(PluginHarness(wasm, **{"faults": isoplug_faults} | arguments))

        yield load


@pytest.fixture
def isoplug_supervisor(pytestconfig: pytest.Config, isoplug_faults: Faults) -> Iterator[LoadPlugins]:
    """Load a folder of plugins: isoplug_supervisor("plugins", permissions={...}).supervisor.command(...)."""
    from isoplug.supervisor.testing.folder import SupervisorHarness

    with ExitStack() as running:

        def load(plugins: str | os.PathLike[str], **arguments: Any) -> SupervisorHarness:
            folder = pytestconfig.rootpath / plugins
            return running.enter_context(SupervisorHarness(folder, **{"faults": isoplug_faults} | arguments))

        yield load


def _require_fixture(item: pytest.Item) -> None:
    """A test with a marker of its own that nothing heeds would pass, and look as if it had survived. The marker of a
    class or a module may be meant for others. Raises InvalidArgument."""
    from isoplug.shared.errors import InvalidArgument

    is_own = any(node is item for node, _ in item.iter_markers_with_node(_MARKER))
    if is_own and not {"isoplug_faults", "request"} & set(getattr(item, "fixturenames", ())):
        raise InvalidArgument(
            "the test takes none of the fixtures isoplug_plugin, isoplug_supervisor and isoplug_faults, so nothing "
            "would be struck; take one, or leave the marker out"
        )


def _configured(config: pytest.Config) -> str:
    path = config.getoption(_OPTION) or config.getini(_OPTION)
    if not path:
        raise pytest.UsageError(
            "isoplug_plugin() needs a plugin: name one, run pytest with --isoplug-plugin PATH, or set isoplug_plugin "
            "in pytest's configuration"
        )
    return str(path)


def _plan(item: pytest.Item, seed: int | None) -> Plan:
    """What the markers say. Raises InvalidArgument."""
    from isoplug.supervisor.chaos import Plan

    outermost_first = reversed(list(item.iter_markers(_MARKER)))
    given = [_given(*marker.args, **marker.kwargs) for marker in outermost_first]
    rules = [rule for one in given for rule in (one.rules if isinstance(one, Plan) else (one,))]
    if seed is None:
        seeds = (one.seed for one in given if isinstance(one, Plan))
        seed = next(seeds, random.randrange(_MAX_SEED))
    return Plan(tuple(rules), seed)


def _given(*what: Any, **how: Any) -> Plan | Rule:
    from dataclasses import fields

    from isoplug.shared.errors import InvalidArgument
    from isoplug.supervisor.chaos import Fault, Plan, Rule, fault_named

    match what:
        case (Plan() as plan,) if not how:
            return plan
        case (Fault() as fault,):
            parameters = {}
        case (str() as name,):
            keys = {field.name for field in fields(Rule)}
            parameters = {key: value for key, value in how.items() if key not in keys}
            fault = fault_named(name, **parameters)
        case _:
            raise InvalidArgument("give it one fault, by name or as a Fault, and where it strikes; or a Plan alone")
    try:
        return Rule(fault, **{key: value for key, value in how.items() if key not in parameters})
    except TypeError as error:
        raise InvalidArgument(f"fault {fault.name!r}: {error}") from None
