// Capacity against recall: the phase transition over the deployed ranks, and the law under it.

import * as api from "./api.js";
import * as phase from "./phase.js";

const $ = (id) => document.getElementById(id);

export const needs = "GET /v1/capacity";
export const every = 30_000; // all adapters and audits are read

export async function show() {
  const [adapters, rows] = await Promise.all([api.allAdapters(), api.capacity()]);
  await phase.show(rows, adapters);
  $("no-phase").hidden = !$("phase").hidden;
  return false;
}

export const listen = phase.listen;
