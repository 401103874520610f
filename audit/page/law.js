// The law under the deployed adapters: the predicted share of tokens locked by rank, and what was measured.

import { el } from "./format.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [920, 180];
const percent = (share) => `${(100 * share).toFixed(0)} %`;

function shape(name, attributes, title) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (title) made.append(Object.assign(document.createElementNS(SVG, "title"), { textContent: title }));
  return made;
}

export function showLaw(found) {
  const fitted = found?.law;
  $("law").hidden = !fitted;
  $("no-law").textContent = fitted ? "" : `No law for this set: ${found?.reason ?? "none was fitted"}.`;
  if (!fitted) return;
  const ranks = fitted.curve.map((at) => at.rank);
  const [low, high] = [Math.log2(ranks[0]), Math.log2(ranks.at(-1))];
  const x = (rank) => ((Math.log2(rank) - low) / (high - low)) * WIDTH;
  const y = (share) => (1 - share) * HEIGHT;
  const line = (share) => fitted.curve.map((at) => `${x(at.rank).toFixed(1)},${y(share(at)).toFixed(1)}`);
  const band = [...line((at) => at.tokens_interval.high), ...line((at) => at.tokens_interval.low).reverse()];
  const points = fitted.ranks.map((one) =>
    shape("circle", { class: "measured", cx: x(one.rank), cy: y(one.tokens), r: 5 }, said(one)),
  );
  $("law-chart").replaceChildren(
    shape("polygon", { class: "band", points: band.join(" ") }),
    shape("polyline", { class: "curve", points: line((at) => at.tokens).join(" ") }),
    ...points,
  );
  $("law-note").textContent =
    `ΔL = min(C·r^α, base loss) over ${fitted.cells} adapters, R² ${fitted.r_squared.toFixed(3)}; ` +
    `band: ${percent(fitted.confidence)} of a new adapter of that rank. It explains; it clears no adapter.`;
  $("law-ranks").replaceChildren(...fitted.ranks.map((one) => el("li", {}, said(one))));
}

function said(one) {
  const { low, high } = one.fitted.tokens_interval;
  return `r = ${one.rank}: ${percent(one.tokens)} of the tokens locked, ${percent(one.fitted.tokens)} by the law (${percent(low)} to ${percent(high)}) · ${one.adapter}`;
}
