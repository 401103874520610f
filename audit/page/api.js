// The routes, with the key that was entered on the page; it stays in this tab's session storage. No cookie is sent.

const KEY = "lorecall-key";
let own = { key: null, routes: new Set() };

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = () => sessionStorage.getItem(KEY) ?? "";

export function setKey(secret) {
  if (secret) sessionStorage.setItem(KEY, secret);
  else sessionStorage.removeItem(KEY);
}

// Ask the server what this key is and may do; `may` answers from it, and the page leaves out what it may not.
export async function whoAmI() {
  const told = await json("keys/self");
  own = { key: told.key, routes: new Set(told.routes) };
  return own.key;
}

export const may = (route) => own.routes.has(route);

async function ask(path, options = {}) {
  const headers = { ...(key() ? { Authorization: `Bearer ${key()}` } : {}), ...options.headers };
  const answer = await fetch(`../v1/${path}`, { ...options, headers, credentials: "omit", cache: "no-store" }).catch(() => {
    throw new Refused(0, "The server does not answer.");
  });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Refused(answer.status, said?.error?.message ?? `The server answered ${answer.status}.`);
}

const json = async (path, options) => (await ask(path, options)).json();
const send = (method, path, body) =>
  json(path, { method, ...(body ? { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } } : {}) });
const query = (values) => new URLSearchParams(Object.entries(values).flatMap(([name, value]) => [value].flat().filter((one) => one !== "").map((one) => [name, one])));
const part = encodeURIComponent;

export const listAdapters = ({ after = "", contains = "", limit = 25 }) => json(`adapters?${query({ after, contains, limit })}`);
// A service without the control plane knows adapters only from the list.
export async function adapter(name) {
  if (may("GET /v1/adapters/{name}")) return json(`adapters/${part(name)}`);
  const found = (await listAdapters({ contains: name, limit: 500 })).adapters.find((one) => one.name === name);
  if (!found) throw new Refused(404, `There is no adapter ${name}.`);
  return found;
}
export const addAdapter = (body) => send("POST", "adapters", body);
export const uploadAdapter = (name, file, pin, reason) =>
  json(`adapters/${part(name)}/archive?pin=${pin}`, { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream", "Lorecall-Reason": part(reason) } });
export const step = (name, what, body) => send("POST", `adapters/${part(name)}/${what}`, body);
export const removeAdapter = (name) => send("DELETE", `adapters/${part(name)}`);
export const events = (name, { before = "", limit = 50 } = {}) => json(`${name ? `adapters/${part(name)}/` : ""}events?${query({ before, limit })}`);

export const audits = async ({ adapter = "", before = "", limit = 50 } = {}) => (await json(`audits?${query({ adapter, before, limit })}`)).audits;
export const audit = (id) => json(`audits/${part(id)}`);
export const removeAudit = (id) => send("DELETE", `audits/${part(id)}`);
export const cancelAudit = (id) => send("POST", `audits/${part(id)}/cancel`);
export const order = (form) => json("audits", { method: "POST", body: form });
export const estimate = (form) => json("audits/estimate", { method: "POST", body: form });
export const capacity = async (adapter) => (await json(`capacity?${query({ law: false, adapter })}`)).rows;
export const capacitySets = async () => (await json("capacity/sets")).sets;
export const law = (set) => json(`capacity/sets/${part(set)}/law`);
export const snippets = async (id, offset, limit) => (await json(`audits/${part(id)}/snippets?${query({ offset, limit })}`)).snippets;
export const diff = async (before, after, kind) => (await ask(`audits/${part(before)}/diff/${part(after)}.${kind}`)).blob();
export const report = async (id, kind) => (await ask(`audits/${part(id)}/report.${kind}`)).blob();

export const keys = async () => (await json("keys")).keys;
export const addKey = (body) => send("POST", "keys", body);
export const revokeKey = (id) => send("DELETE", `keys/${part(id)}`);

// A link cannot send the key, so a file is fetched and then saved.
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
