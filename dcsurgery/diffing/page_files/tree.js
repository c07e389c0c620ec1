"use strict";
// The diff as a tree: what holds what, which boxes are open, and which arrows run on which level.
const DCS = {};

DCS.Tree = class {
  constructor(data) {
    this.data = data;
    this.nodes = data.nodes.map((entry, index) => ({ ...entry, index, parent: null, children: [], holds: 0, level: new Map() }));
    this.open = new Set();
    for (const node of this.nodes) {
      if (node.p >= 0) {
        node.parent = this.nodes[node.p];
        node.parent.children.push(node);
      }
    }
    this.root = this.nodes.find((node) => node.parent === null);
    data.changes.forEach((change, number) => {
      for (const index of change.nodes) {
        const node = this.nodes[index];
        node.change = change;
        node.number = number;
        for (let above = node.parent; above; above = above.parent) above.holds += 1;
      }
    });
    for (const [source, target, sides] of data.arrows) this.addArrow(this.nodes[source], this.nodes[target], sides);
  }

  // An arrow runs on the level of the module that holds both ends, between the two boxes there that hold one end each.
  addArrow(source, target, sides) {
    const above = new Map();
    for (let node = source, below = source; node; below = node, node = node.parent) above.set(node, below);
    let below = target;
    for (let node = target; node; below = node, node = node.parent) {
      if (!above.has(node)) continue;
      const from = above.get(node);
      if (from !== below && from !== node && below !== node) {
        const key = `${from.index}>${below.index}`;
        const known = node.level.get(key);
        if (known) known.sides |= sides;
        else node.level.set(key, { from, to: below, sides });
      }
      return;
    }
  }

  state(node) {
    return node.change ? node.change.state : "same";
  }

  label(node, side) {
    const before = node.b, after = node.a ?? node.b;
    const name = node.k === "module" && node.n !== "(model)" ? `${this.shortName(node)}: ` : "";
    if (node.k === "fold") return node.b;
    if (side === 1) return name + before;
    if (side === 2) return name + after;
    return name + (before && after && before !== after ? `${before} => ${after}` : (after ?? before));
  }

  // A module's path below the module that shows it.
  shortName(node) {
    let above = node.parent;
    while (above && above.k === "fold") above = above.parent;
    const path = (node.d[0] ?? node.d[1]).path ?? node.n;
    const prefix = above && above.i !== "(model)" ? above.i.replace(/^\+/, "") : "";
    return prefix && path.startsWith(prefix) ? path.slice(prefix.length).replace(/^\./, "") : path;
  }

  isOpen(node) {
    return this.open.has(node.index);
  }

  canOpen(node) {
    return node.children.length > 0;
  }

  toggle(node) {
    if (!this.canOpen(node) || node === this.root) return false;
    if (!this.open.delete(node.index)) this.open.add(node.index);
    this.stale(node);
    return true;
  }

  stale(node) {
    for (let above = node; above; above = above.parent) above.layout = null;
  }

  closeAll() {
    this.open = new Set([this.root.index]);
    for (const node of this.nodes) node.layout = null;
  }

  // Open what holds changes, outermost first, while the picture stays small enough to be read.
  openChanges(most = 260) {
    this.closeAll();
    let shown = this.root.children.length;
    let level = [this.root];
    while (level.length) {
      const next = [];
      for (const node of level) {
        for (const child of node.children) {
          if (child.holds && this.canOpen(child) && !child.change && shown + child.children.length <= most) {
            this.open.add(child.index);
            shown += child.children.length;
            next.push(child);
          }
        }
      }
      level = next;
    }
  }

  reveal(node) {
    for (let above = node.parent; above; above = above.parent) {
      if (!this.isOpen(above)) {
        this.open.add(above.index);
        this.stale(above);
      }
    }
  }

  *visible(node = this.root) {
    for (const child of node.children) {
      yield child;
      if (this.isOpen(child)) yield* this.visible(child);
    }
  }

  text(node) {
    const details = node.d ? node.d.filter(Boolean) : [];
    const words = [node.i, node.b, node.a, ...details.flatMap((d) => [d.site, d.role, d.where, d.given, d.path])];
    return words.filter(Boolean).join(" ").toLowerCase();
  }
};
