"""What the machine can do and how much of it each part uses: the suites behind `vqwave bench`.

A suite is a module here with `rows(arguments) -> Iterator[Row]`, whose docstring describes what it
measures, and, where it has settings of its own, `options(parser)`. Modules are loaded on demand.
"""
