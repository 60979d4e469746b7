#pragma once

// The fixed parts of the routing page: its look and its script. Everything variable is in the page's data;
// the script writes it with `textContent` only, so no text can become markup.

#include <string_view>

namespace support {

inline std::string_view routing_style() {
    return R"css(:root { color-scheme: light; --line: #d0d7de; --soft: #57606a; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 24px 80px; max-width: 1180px; background: #fff; color: #24292f;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 26px; margin: 0 0 6px; }
h2 { font-size: 19px; margin: 0; }
.lead { max-width: 820px; margin: 0 0 26px; color: var(--soft); }
section { border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px 18px; margin: 0 0 22px; }
.about { margin: 2px 0 12px; color: var(--soft); font-size: 14px; }
.views, .legend { display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 10px; }
.legend { gap: 4px 6px; margin-bottom: 14px; align-items: center; font-size: 13px; }
button { font: inherit; font-size: 13px; color: inherit; background: #f6f8fa; border: 1px solid var(--line);
  border-radius: 6px; padding: 3px 10px; cursor: pointer; }
button:hover { background: #eaeef2; }
button[aria-pressed=true] { background: #24292f; border-color: #24292f; color: #fff; }
.legend button { display: inline-flex; align-items: center; gap: 6px; background: none;
  padding: 1px 8px 1px 4px; border-color: transparent; }
.legend button:hover, .legend button[aria-pressed=true] { border-color: #24292f; background: none;
  color: inherit; }
.legend .share { color: var(--soft); font-variant-numeric: tabular-nums; }
.swatch { display: inline-block; width: 15px; height: 15px; border-radius: 3px; border: 1px solid #0002;
  vertical-align: -2px; flex: none; }
.text { font: 14px/22px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  line-height: 0; overflow-wrap: anywhere; }
.text i { display: inline-block; width: 15px; height: 26px; line-height: 22px; margin: 0 1px 3px 0;
  font-style: normal; text-align: center; vertical-align: top; overflow: hidden; border-radius: 3px;
  background: #f1f3f5; cursor: default; unicode-bidi: isolate; }
.text i.h { font-size: 9px; letter-spacing: -.3px; }
.text i.s { color: #0007; }
.text .g { display: inline-block; white-space: nowrap; vertical-align: top; }
.text .g i { margin-right: 0; border-radius: 0; }
.text .g i:first-child { border-radius: 3px 0 0 3px; }
.text .g i:last-child { border-radius: 0 3px 3px 0; margin-right: 1px; }
.text .g i.h { color: #0006; }
.text i.dim { opacity: .13; }
.text i:hover { outline: 2px solid #24292f; outline-offset: -1px; }
#tip { position: fixed; z-index: 9; width: max-content; max-width: min(460px, 94vw); padding: 8px 12px;
  background: #24292f; color: #fff;
  border-radius: 8px; font-size: 13px; line-height: 1.55; pointer-events: none;
  box-shadow: 0 4px 14px #0005; }
#tip b { display: block; }
#tip .row { display: flex; flex-wrap: wrap; gap: 0 10px; }
#tip .row > :first-child { color: #b6bec7; min-width: 92px; }
#tip .swatch { width: 11px; height: 11px; vertical-align: -1px; margin-right: 4px; }
)css";
}

inline std::string_view routing_script() {
    return R"js("use strict";
const palette = ["#77aadd", "#ee8866", "#eedd88", "#44bb99", "#ffaabb", "#bbcc33", "#99ddff", "#b8a1e0"];
const hatch = "repeating-linear-gradient(45deg, #ececec 0 3px, #c9c9c9 3px 5px)";
const expertColour = k => k < palette.length ? palette[k] :
  `hsl(${(k * 137.5) % 360} 46% ${k % 2 ? 87 : 56}%)`;
const hexOf = (net, b) => net.text.slice(2 * b, 2 * b + 2);

function element(tag, name, text) {
  const e = document.createElement(tag);
  if (name) e.className = name;
  if (text !== undefined) e.textContent = text;
  return e;
}
function swatch(look) {
  const e = element("span", "swatch");
  e.style.background = look;
  return e;
}
function expertKey(layer, expert) {
  return expert < 0 ? "dropped" : expert >= layer.experts - layer.nulls ? "null" : "e" + expert;
}
// How a value of a view looks, and what it is called.
function look(key, net) {
  const is = (name, fill, ink = "", solid = fill) => ({ name, fill, ink, solid });
  if (key === "null") return is("null expert (computes nothing)", hatch, "", "#c9c9c9");
  if (key === "dropped") return is("dropped (the expert was full)", "#fff", "#c00");
  if (key === "unreached") return is("not reached (block skipped)", "#fff", "#999");
  if (key === "passed") return is("passed through the block", "#59636e", "#fff");
  if (key === "skipped") return is("skipped the block", "#f1f3f5", "#8b949e", "#e4e7eb");
  if (key[0] === "e") return is("expert " + key.slice(1), expertColour(+key.slice(1)));
  const n = +key.slice(1), least = net.blocks - net.depths, t = (n - least) / Math.max(1, net.depths);
  const mix = (a, b) => Math.round(a + (b - a) * t);
  const c = `rgb(${mix(238, 42)} ${mix(243, 104)} ${mix(250, 176)})`;
  return is(n + (n === 1 ? " block" : " blocks"), c, t > .6 ? "#fff" : "");
}
function keyOf(layer, b) {
  if (layer.kind === "depth") return layer.rows[b] === "1" ? "passed" : "skipped";
  return layer.rows[b].length ? expertKey(layer, layer.rows[b][0]) : "unreached";
}
const title = layer => layer.label + " \u00b7 " + layer.kind;
const percent = x => (100 * x).toFixed(x > 0 && x < .0995 ? 1 : 0) + " %";

function prepare(net, section) {
  net.cells = [...section.querySelectorAll(".text i")];
  const depths = net.layers.filter(l => l.kind === "depth");
  net.depths = depths.length;
  net.passed = net.cells.map((_, b) => net.blocks - depths.filter(l => l.rows[b] === "0").length);
  net.cells.forEach((cell, b) => { cell.net = net; cell.index = b; });
  if (!net.layers.length) return;

  const nulls = net.layers.find(l => l.nulls), experts = net.layers.filter(l => l.kind === "experts");
  const parts = [];
  const verb = (n, one, many) => n === 1 ? one : many;
  if (experts.length) parts.push(experts.length + " of its layers " +
    verb(experts.length, "chooses", "choose") + ` among ${experts[0].experts - experts[0].nulls} experts` +
    (nulls ? ` and ${nulls.nulls} null` : ""));
  if (depths.length) parts.push(`${depths.length} of its ${net.blocks} blocks ` +
    `${verb(depths.length, "computes", "compute")} only chosen bytes: a byte passes ` +
    (net.passed.reduce((a, n) => a + n, 0) / Math.max(1, net.passed.length)).toFixed(1) +
    " blocks on average");
  section.querySelector(".about").textContent = parts.join("; ") + ".";

  const views = net.layers.map(l => ({ name: title(l), keys: b => keyOf(l, b) }));
  if (depths.length) views.push({ name: "blocks passed", keys: b => "p" + net.passed[b] });
  if (net.layers.length > 1) views.push({ name: "all layers", all: true });
  const middle = experts[experts.length >> 1];
  const start = middle ? net.layers.indexOf(middle) : views.findIndex(v => v.name === "blocks passed");
  const bar = section.querySelector(".views");
  views.forEach((view, i) => {
    const button = bar.appendChild(element("button", "", view.name));
    button.onclick = () => {
      for (const other of bar.children) other.setAttribute("aria-pressed", other === button);
      show(net, view, section);
    };
    if (i === start) button.click();
  });
}

function depthBar(net, b) {
  if (!net.depths) return "";
  const part = 100 * net.passed[b] / net.blocks;
  return `linear-gradient(to right, #24292f ${part}%, #d5dae0 ${part}%) 0 100% / 100% 4px no-repeat, `;
}
function show(net, view, section) {
  const legend = section.querySelector(".legend"), count = new Map();
  legend.replaceChildren();
  const height = view.all ? 22 + 4 * net.layers.length + (net.depths ? 4 : 0) : 26;
  net.cells.forEach((cell, b) => {
    cell.classList.remove("dim");
    cell.style.height = height + "px";
    cell.style.color = "";
    if (view.all) {
      const stripes = net.layers.map((l, k) =>
        `${look(keyOf(l, b), net).solid} ${22 + 4 * k}px ${26 + 4 * k}px`).join(", ");
      cell.style.background = depthBar(net, b) +
        `linear-gradient(to bottom, #f6f8fa 22px, ${stripes}, #fff ${22 + 4 * net.layers.length}px)`;
      return;
    }
    const key = cell.key = view.keys(b), is = look(key, net);
    count.set(key, (count.get(key) || 0) + 1);
    cell.style.background = depthBar(net, b) + is.fill;
    if (is.ink) cell.style.color = is.ink;
  });
  if (view.all) {
    legend.append(element("span", "", "One stripe per layer, from top to bottom: " +
      net.layers.map(title).join(", ") + ". Expert colours as in the " +
      "single layers; dark: passed, light: skipped, white: not reached."));
  }
  let pinned = null;
  const focus = key => net.cells.forEach(c => c.classList.toggle("dim", key !== null && c.key !== key));
  const order = k => (k[0] === "e" || k[0] === "p") && /\d$/.test(k) ? +k.slice(1) : 1e6;
  for (const key of [...count.keys()].sort((a, b) => order(a) - order(b) || (a < b ? -1 : 1))) {
    const chip = legend.appendChild(element("button"));
    chip.append(swatch(look(key, net).fill), look(key, net).name,
      element("span", "share", percent(count.get(key) / net.cells.length)));
    chip.onpointerenter = () => focus(key);
    chip.onpointerleave = () => focus(pinned);
    chip.onclick = () => {
      pinned = pinned === key ? null : key;
      for (const other of legend.querySelectorAll("button")) {
        other.setAttribute("aria-pressed", other === chip && pinned !== null);
      }
      focus(pinned);
    };
  }
  if (net.depths) {
    const chip = legend.appendChild(element("span"));
    const half = "linear-gradient(to right, #24292f 60%, #d5dae0 60%) 0 100% / 100% 5px no-repeat, #fff";
    chip.append(swatch(half),
      ` bar below a byte: blocks it passed of ${net.blocks}`);
  }
}

const tip = document.getElementById("tip");
function explain(net, b) {
  const code = hexOf(net, b), value = parseInt(code, 16);
  const named = { 32: "space", 10: "line feed", 9: "tab", 13: "carriage return" }[value];
  const sign = named || (value > 32 && value < 127 ? "\u201c" + String.fromCharCode(value) + "\u201d" : "");
  tip.replaceChildren(element("b", "", `byte ${b}: 0x${code} ${sign}`));
  for (const layer of net.layers) {
    const row = tip.appendChild(element("div", "row"));
    row.append(element("span", "", title(layer)));
    const uses = layer.rows[b], key = keyOf(layer, b);
    if (layer.kind === "depth" || !uses.length) {
      row.append(element("span", "", key === "unreached" ? "not reached" : key));
      continue;
    }
    for (let i = 0; i < uses.length; i += 2) {
      const kind = expertKey(layer, uses[i]), item = row.appendChild(element("span"));
      const gate = uses[i + 1] === null ? "" : " " + (uses[i + 1] / 1000).toFixed(2);
      item.append(swatch(look(kind, net).fill),
        (kind[0] === "e" ? look(kind, net).name : kind === "null" ? "null expert" : kind) + gate);
    }
  }
  tip.append(element("div", "", `passed ${net.passed[b]} of ${net.blocks} blocks`));
}
document.addEventListener("pointerover", event => {
  const cell = event.target;
  tip.hidden = cell.net === undefined;
  if (tip.hidden) return;
  explain(cell.net, cell.index);
  const at = cell.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const most = document.documentElement.clientWidth - size.width - 8;
  tip.style.left = Math.max(8, Math.min(at.left, most)) + "px";
  const fits = at.bottom + 8 + size.height <= innerHeight;
  tip.style.top = (fits ? at.bottom + 8 : at.top - size.height - 8) + "px";
});
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
document.querySelectorAll("section").forEach((section, i) => prepare(networks[i], section));
)js";
}

}  // namespace support
