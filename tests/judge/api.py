#!/usr/bin/env python3
"""Holds Firecracker's configuration and requests against its own description of its API.

  api.py firecracker.yaml CONFIG REQUESTS

CONFIG is a configuration file, REQUESTS has a line `METHOD PATH [BODY]` for each request. What the
description does not know is an error, too. Prints what was judged.
"""

import json
import sys

import jsonschema
import yaml


def strict(node):
    """The same schema, refusing properties that it does not name."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: strict(value) for key, value in node.items()}
    if "properties" in node and isinstance(node["properties"], dict):
        node.setdefault("additionalProperties", False)
    return node


def main(description, config, requests):
    with open(description, encoding="utf-8") as file:
        api = yaml.safe_load(file)
    definitions = strict(api["definitions"])

    def judge(value, schema):
        schema = dict(strict(schema), definitions=definitions)
        jsonschema.validate(value, schema)

    with open(config, encoding="utf-8") as file:
        judge(json.load(file), {"$ref": "#/definitions/FullVmConfiguration"})
    judged = 1
    with open(requests, encoding="utf-8") as file:
        for line in file:
            method, path, body = (line.rstrip("\n").split(" ", 2) + [None])[:3]
            operation = api["paths"][path][method.lower()]
            schemas = [p["schema"] for p in operation.get("parameters", []) if p["in"] == "body"]
            assert bool(schemas) == (body is not None), line
            for schema in schemas:
                judge(json.loads(body), schema)
            judged += 1
    print(f"judged {judged} by version {api['info']['version']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
