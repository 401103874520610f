// Says what is wrong with custom resources: manifests as a JSON list on stdin, a list of complaints on stdout.
// The checks are @kubernetes-models' (in the folder that is the argument), compiled from the CRDs' own Go types. They let
// unknown fields pass; those are the ones here that a check that looked at their object never asked for.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const PACKAGES = {
  "gateway.networking.k8s.io": "gateway-api",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};

class Watched {} // no plain object, of which a model would make a copy

function watched(value, path, seen) {
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map((item, at) => watched(item, `${path}/${at}`, seen));
  const fields = Object.entries(value).map(([name, field]) => [name, watched(field, `${path}/${name}`, seen)]);
  const asked = new Set();
  seen.push({ path, asked, names: Object.keys(value) });
  return new Proxy(Object.assign(new Watched(), Object.fromEntries(fields)), {
    get: (object, name) => (asked.add(name), object[name]),
    ownKeys: (object) => (Object.keys(object).forEach((name) => asked.add(name)), Reflect.ownKeys(object)),
  });
}

const complaints = [];
for (const manifest of JSON.parse(readFileSync(0, "utf8"))) {
  const [group] = manifest.apiVersion.split("/");
  const module = `${process.argv[2]}/${PACKAGES[group]}/${manifest.apiVersion}/${manifest.kind}.js`;
  const model = (await import(pathToFileURL(module)))[manifest.kind];
  const seen = [];
  try {
    new model(watched(manifest, "", seen)).validate();
  } catch (error) {
    complaints.push(`${manifest.kind}: ${error.message}`);
  }
  for (const { path, asked, names } of seen) {
    const unknown = asked.size > 0 ? names.filter((name) => !asked.has(name)) : [];
    complaints.push(...unknown.map((name) => `${manifest.kind}: ${path}/${name} is no field`));
  }
}
console.log(JSON.stringify(complaints));
