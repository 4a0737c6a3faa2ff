# `just` comes with the environment: .venv/bin/just, after `python3 -m venv .venv && .venv/bin/pip install -e '.[dev]'`.
# Another environment: `just venv=PATH …`.

venv := ".venv"
python := venv / "bin/python"

# list the recipes
default:
    @{{just_executable()}} --list --unsorted

# make .venv, with triochan (editable) and all that development needs
setup:
    python3 -m venv {{venv}}
    {{python}} -m pip install --quiet --editable '.[dev]'

# serve the chat example; more options go to triochan, as in `just run --port 9000`
run *options:
    {{python}} -m triochan --app-dir examples chat:routing {{options}}

# run the tests; more options go to pytest, as in `just test -m 'not slow and not browser'`
test *options:
    {{python}} -m pytest {{options}}

# the tests in random order, again and again: which of them depend on luck? (options go to pytest)
luck times='20' *options:
    for i in $(seq {{times}}); do PYTHONPATH=tests/support {{python}} -m pytest -p random_order {{options}} || exit 1; done

# Not asked for: ASYNC9, a checkpoint in every async function, and ASYNC124, an await (consumers need neither);
# ASYNC114, which knows startable functions by name, and `run` is the name of too many

# lint, formatting, types, Trio's pitfalls, the floors, coverage, known vulnerabilities
check: && coverage audit
    {{venv}}/bin/ruff check .
    {{venv}}/bin/ruff format --check --quiet . || { {{venv}}/bin/ruff format --diff .; exit 1; }
    {{venv}}/bin/mypy
    {{venv}}/bin/pyright --pythonpath {{python}} --project tests/real/typing_app
    git ls-files -z --cached --others --exclude-standard 'triochan/*.py' 'examples/*.py' 'tests/*.py' \
        | xargs -0 ls -d 2>/dev/null \
        | xargs -n 40 -P "$(nproc)" {{venv}}/bin/flake8-async --disable ASYNC9,ASYNC114,ASYNC124
    {{venv}}/bin/lint-imports --no-logo

# known vulnerabilities of what is installed and of the oldest versions admitted (`--strict`: fail where no service answers)
audit *options:
    {{python}} tests/support/audit.py {{options}}

# The modules that need no Trio and no socket to be tested whole.
pure := "triochan/access.py,triochan/content.py,triochan/exceptions.py,triochan/headers.py,triochan/http1/parser.py," + \
    "triochan/http1/writer.py,triochan/layers/redis/codec.py,triochan/log_lines.py,triochan/message.py,triochan/near_misses.py,triochan/origins.py,triochan/other_servers.py,triochan/porting.py," + \
    "triochan/proxies.py,triochan/replies.py,triochan/routing.py,triochan/session.py," + \
    "triochan/settings.py,triochan/typed/*,triochan/websocket/life.py," + \
    "triochan/wire/binds.py,triochan/wire/control.py,triochan/wire/deflate.py,triochan/wire/frames.py,triochan/wire/handshake.py,triochan/wire/proxy_protocol.py"

# what tests run: all of what is pure, 95 % of the rest, branches included (measured anew where the code has changed since)
coverage:
    test -e .coverage && test -z "$(find triochan tests -name '*.py' -newer .coverage)" \
        || {{python}} -m pytest --quiet --cov --cov-report=
    {{venv}}/bin/coverage report --include='{{pure}}' --fail-under=100
    {{venv}}/bin/coverage report --omit='{{pure}}' --fail-under=95

# the unit tests with the lowest versions that pyproject.toml allows, in an environment of their own (a few minutes)
floors:
    python3 -m venv --clear .floors
    .floors/bin/pip install --quiet $({{python}} tests/support/dependencies.py) \
        hypothesis pytest pytest-cov pytest-trio trustme sqlalchemy argon2-cffi selenium
    .floors/bin/python -m pytest --quiet -m 'not slow and not browser and not engine' tests/unit tests/contracts

# format the code, and mend what ruff can mend
format:
    {{venv}}/bin/ruff format .
    {{venv}}/bin/ruff check --fix .

# measure triochan beside its peers (about twenty-five minutes; --help says more)
bench *options:
    {{python}} tests/benchmarks/run.py {{options}}

# the WebSocket protocol, by Autobahn|Testsuite's fuzzing client (needs a Python 2.7; --help says more)
autobahn *options:
    {{python}} tests/autobahn/run.py {{options}}

# coverage-guided fuzzing of what reads bytes
fuzz *options:
    {{python}} -m pip install --quiet --editable '.[dev,fuzz]'
    {{python}} tests/fuzz/run.py {{options}}

# clients that vanish, stall and lie, for as long as it is told to; --processes 2: on an engine that is killed
chaos *options:
    {{python}} tests/chaos/run.py {{options}}

# the browser client's unit tests, its npm package and its type check (needs Node.js 20.19 with npm)
client:
    cd tests/client && npm install --silent --no-audit --no-fund
    node --test tests/client/*.test.js
    cd tests/client && npm run check

# write docs/conformance.md from the tests' marks
conformance:
    {{python}} tests/support/conformance.py

# write docs/limits.md from the defaults and the tests
limits:
    {{python}} tests/support/limits.py

# draw a WebSocket's life in docs/architecture.md from the code's table
diagrams:
    {{python}} tests/support/life_diagram.py

# write the options into docs/command-line.md
options:
    {{python}} tests/support/option_table.py

# run every example of the README and of docs/
docs:
    {{python}} -m pytest tests/real/test_docs.py
