"use strict";
// The lists at the left and the details at the right.
DCS.tag = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "click") made.addEventListener("click", value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

DCS.ROWS = 500;

DCS.Panels = class {
  constructor(tree, on) {
    Object.assign(this, { tree, on });
    this.hidden = new Set();
    this.tabs = ["changes", "sites", "found"];
    this.fillChanges();
    this.fillSites();
    this.fillFound("");
    for (const name of this.tabs) {
      const tab = document.getElementById(`tab-${name}`);
      tab.addEventListener("click", () => this.show(name));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        event.stopPropagation();
        const next = this.tabs[(this.tabs.indexOf(name) + step + this.tabs.length) % this.tabs.length];
        this.show(next);
        document.getElementById(`tab-${next}`).focus();
      });
    }
    for (const box of document.querySelectorAll("#filters input")) {
      box.addEventListener("change", () => {
        if (box.checked) this.hidden.delete(box.value);
        else this.hidden.add(box.value);
        this.fillChanges();
        this.on.filter(this.hidden);
      });
    }
    const search = document.getElementById("search");
    search.addEventListener("input", () => this.search(search.value));
    search.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && this.hits.length) this.on.jump(this.hits[0]);
    });
  }

  show(name) {
    for (const other of this.tabs) {
      const tab = document.getElementById(`tab-${other}`);
      tab.setAttribute("aria-selected", String(other === name));
      tab.tabIndex = other === name ? 0 : -1;
      document.getElementById(other).hidden = other !== name;
    }
  }

  jumper(node, text) {
    return DCS.tag("button", { type: "button", class: "jump", click: () => this.on.jump(node) }, text);
  }

  // Fill a list with the first of its items; a button below makes more rows. Returns what makes rows up to an item.
  fill(id, head, items, row, empty) {
    const panel = document.getElementById(id);
    if (!items.length) {
      panel.replaceChildren(DCS.tag("p", {}, empty));
      return () => {};
    }
    const names = DCS.tag("tr", {}, ...head.map((name) => DCS.tag("th", { scope: "col" }, name)));
    const body = DCS.tag("tbody");
    panel.replaceChildren(DCS.tag("table", {}, DCS.tag("thead", {}, names), body));
    let made = 0;
    const more = DCS.tag("button", { type: "button", class: "more", click: () => extend(made + DCS.ROWS) });
    const extend = (end) => {
      for (; made < Math.min(end, items.length); made += 1) body.append(row(items[made]));
      if (made < items.length) more.textContent = `Show ${Math.min(DCS.ROWS, items.length - made)} more of ${items.length}`;
      else more.remove();
    };
    extend(DCS.ROWS);
    if (made < items.length) panel.append(more);
    return extend;
  }

  fillChanges() {
    const changes = this.tree.data.changes.filter((change) => !this.hidden.has(change.state));
    const row = (change) => {
      const node = this.tree.nodes[change.nodes[0]];
      const sign = DCS.tag("td", { class: `sign ${change.state}`, title: change.state }, DCS.SIGNS[change.state]);
      const name = node ? this.jumper(node, change.name) : change.name;
      const note = change.note ? ` (${change.note})` : "";
      return DCS.tag("tr", {}, sign, DCS.tag("td", {}, name), DCS.tag("td", { class: `state ${change.state}` }, change.text + note));
    };
    this.fill("changes", ["", "where", "what"], changes, row, "No changes.");
  }

  fillSites() {
    this.siteRows = new Map();
    this.siteOrder = new Map();
    const nodes = this.tree.nodes.filter((node) => {
      const site = node.d && node.d[0] && node.d[0].site;
      if (!site || this.siteOrder.has(site)) return false;
      this.siteOrder.set(site, this.siteOrder.size);
      return true;
    });
    const row = (node) => {
      const details = node.d[0];
      const state = this.tree.state(node);
      const made = DCS.tag("tr", {},
        DCS.tag("td", {}, this.jumper(node, details.site)),
        DCS.tag("td", {}, details.role + (details.block ? ` (${details.block})` : "")),
        DCS.tag("td", { class: `state ${state}` }, node.change ? node.change.text : node.b));
      this.siteRows.set(details.site, made);
      return made;
    };
    this.makeSites = this.fill("sites", ["site", "role", "what"], nodes, row, "No sites.");
  }

  search(text) {
    this.fillFound(text);
    if (text.trim()) this.show("found");
    this.on.found(new Set(this.hits.map((node) => node.index)));
  }

  fillFound(text) {
    const words = text.trim().toLowerCase().split(/\s+/).filter(Boolean);
    this.hits = words.length ? this.tree.nodes.filter((node) => {
      const held = this.tree.text(node);
      return words.every((word) => held.includes(word));
    }) : [];
    const row = (node) =>
      DCS.tag("tr", {}, DCS.tag("td", {}, this.jumper(node, node.i)), DCS.tag("td", {}, this.tree.label(node, 0)));
    this.fill("found", ["node", "what"], this.hits, row, words.length ? "Nothing found." : "Type into the search field.");
  }

  markSite(site) {
    if (!this.siteOrder.has(site)) return;
    this.makeSites(this.siteOrder.get(site) + 1);
    const row = this.siteRows.get(site);
    this.show("sites");
    for (const other of this.siteRows.values()) other.classList.toggle("marked", other === row);
    row.scrollIntoView({ block: "center" });
    row.querySelector("button").focus();
  }

  // -- details --------------------------------------------------------------------------------------------------------

  details(node) {
    const panel = document.getElementById("details");
    panel.hidden = node === null;
    if (node === null) return;
    const state = this.tree.state(node);
    const parts = [
      DCS.tag("h2", {}, this.tree.label(node, 0)),
      DCS.tag("p", { class: `state ${state}` }, node.change ? `${DCS.SIGNS[state]} ${state}: ${node.change.text}` : "unchanged"),
    ];
    if (node.change && node.change.note) parts.push(DCS.tag("p", {}, node.change.note));
    const sides = node.d ? (node.d.length === 1 ? [node.d[0]] : node.d) : [];
    sides.forEach((details, side) => {
      if (!details) return;
      if (sides.length === 2) parts.push(DCS.tag("h2", {}, side === 0 ? "before" : "after"));
      parts.push(this.table(node, details));
    });
    const code = [node.b, node.a].filter(Boolean).map((label) => this.tree.data.code[label]).find(Boolean);
    if (node.k === "module" && code) parts.push(DCS.tag("h2", {}, "code"), DCS.tag("pre", { tabindex: "0", "aria-label": "code" }, code));
    const actions = DCS.tag("p", {});
    if (this.tree.canOpen(node) && node !== this.tree.root) {
      const what = this.tree.isOpen(node) ? "Close" : "Open";
      actions.append(DCS.tag("button", { type: "button", click: () => this.on.toggle(node) }, what), " ");
    }
    actions.append(DCS.tag("a", { href: DCS.link(node) }, "link to this node"));
    parts.push(actions);
    panel.replaceChildren(...parts);
  }

  table(node, details) {
    const rows = [["id", node.i]];
    for (const [name, value] of Object.entries(details)) {
      if (name === "site") {
        const button = DCS.tag("button", { type: "button", class: "jump", click: () => this.markSite(value) }, value);
        rows.push(["site", button]);
        for (const [check, figure] of Object.entries(this.tree.data.figures[value] ?? {})) rows.push([`check: ${check}`, String(figure)]);
      } else if (name === "tensors") {
        rows.push(["tensors", value.map(([tensor, shape]) => `${tensor} [${shape.join(", ")}]`).join("; ")]);
      } else if (name === "shape") rows.push(["shape", `[${value.join(", ")}]`]);
      else if (name === "numbers") rows.push(["parameters", Number(value).toLocaleString("en")]);
      else if (name !== "path") rows.push([name, String(value)]);
    }
    return DCS.tag("table", {}, ...rows.map(([name, value]) => DCS.tag("tr", {}, DCS.tag("th", { scope: "row" }, name), DCS.tag("td", {}, value))));
  }
};

DCS.link = (node) => `#node=${encodeURIComponent(node.i)}`;
