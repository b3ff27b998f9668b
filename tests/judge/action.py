#!/usr/bin/env python3
"""Runs the steps of a composite action as GitHub's runner would, but for those that are actions.

    action.py ACTION.YML INPUT=VALUE…

Knows what ours use: `run` steps in bash, `env`, `if` made of (un)equal inputs and `&&`, outputs.
Ends as the first step that fails; prints the action's outputs as JSON.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

import yaml


def main(path, arguments):
    with open(path) as file:
        action = yaml.safe_load(file)
    inputs = {name: str(given.get("default", "")) for name, given in action["inputs"].items()}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in inputs:
            sys.exit(f"action: no input {name}")
        inputs[name] = value
    outputs, search = {}, os.environ["PATH"]

    def value(expression):
        words = expression.strip().split(".")
        if words[0] == "inputs" and len(words) == 2:
            return inputs[words[1]]
        if words[0] == "steps" and words[2] == "outputs":
            return outputs.get(words[1], {}).get(words[3], "")
        sys.exit(f"action: {expression} is not known here")

    def filled(text):
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: value(found[1]), str(text))

    def holds(condition):
        for part in condition.split("&&"):
            left, equal, right = re.fullmatch(r"\s*(\S+) (==|!=) '(.*)'\s*", part).groups()
            if (value(left) == right) != (equal == "=="):
                return False
        return True

    for step in action["runs"]["steps"]:
        if "if" in step and not holds(step["if"]):
            continue
        if "uses" in step:
            print(f"action: {step['uses']} is not run here", file=sys.stderr)
            continue
        print(f"action: {step['name']}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            files = {name: os.path.join(scratch, name) for name in ("GITHUB_OUTPUT", "GITHUB_PATH")}
            for file in files.values():
                open(file, "w").close()
            variables = {name: filled(text) for name, text in step.get("env", {}).items()}
            environment = {**os.environ, **variables, **files, "PATH": search, "CI": "true",
                           "GITHUB_ACTION_PATH": os.path.dirname(os.path.abspath(path))}
            shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", filled(step["run"])]
            code = subprocess.run(shell, env=environment, stdin=subprocess.DEVNULL).returncode
            if code != 0:
                sys.exit(code)
            with open(files["GITHUB_PATH"]) as file:
                search = ":".join([*reversed(file.read().split()), search])
            with open(files["GITHUB_OUTPUT"]) as file:
                lines = (line.rstrip("\n").partition("=") for line in file)
                outputs[step.get("id")] = {name: text for name, _, text in lines}
    print(json.dumps({name: filled(given["value"]) for name, given in action["outputs"].items()}))


main(sys.argv[1], sys.argv[2:])
