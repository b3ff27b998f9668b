"""An independent TUF client: python-tuf reads the catalog at a URL and downloads all that it lists.

usage: judge.py URL ROOT DIR        prints {"targets": version, "paths": [...]}
"""
import json
import os
import sys

from tuf.ngclient import Updater, UpdaterConfig

url, root, scratch = sys.argv[1:]
os.makedirs(f"{scratch}/metadata", exist_ok=True)
os.makedirs(f"{scratch}/targets", exist_ok=True)
with open(root, "rb") as file:
    bootstrap = file.read()
updater = Updater(
    metadata_dir=f"{scratch}/metadata",
    metadata_base_url=f"{url}/metadata/",
    target_dir=f"{scratch}/targets",
    target_base_url=f"{url}/targets/",
    config=UpdaterConfig(),
    bootstrap=bootstrap,
)
updater.refresh()
with open(f"{scratch}/metadata/targets.json", "rb") as file:
    signed = json.load(file)["signed"]
for path in signed["targets"]:
    # Its size and digest are checked by the client.
    updater.download_target(updater.get_targetinfo(path))
print(json.dumps({"targets": signed["version"], "paths": sorted(signed["targets"])}))
