// The audits, newest first, a page at a time.

import * as api from "./api.js";
import { auditRow, fill } from "./tables.js";

const $ = (id) => document.getElementById(id);
const PAGE = 50;
const view = { older: [] };

export const needs = "GET /v1/audits";
const open = (one) => one.state === "queued" || one.state === "running";

export async function show() {
  const newest = await api.audits({ limit: PAGE });
  const known = new Set(newest.map((one) => one.id));
  const all = [...newest, ...view.older.filter((one) => !known.has(one.id))];
  fill("audits", all, auditRow);
  view.last = all.at(-1);
  if (newest.length < PAGE) $("audits-older").hidden = true;
  else if (!view.ended) $("audits-older").hidden = false;
  $("order-one").hidden = !api.may("POST /v1/audits");
  return newest.some(open);
}

export function listen(failed) {
  $("audits-older").addEventListener("click", async () => {
    try {
      const page = await api.audits({ before: view.last.id, limit: PAGE });
      view.older.push(...page);
      view.ended = page.length < PAGE;
      $("audits-older").hidden = view.ended;
      await show();
    } catch (error) {
      failed(error);
    }
  });
}
