// Line plots as SVG, without a library.

const SVG = "http://www.w3.org/2000/svg";
const WINDOW = 10 * 60 * 1000;
/** Points further apart are not connected: what was in between is unknown. */
const GAP = 15 * 1000;
const MARGIN = { top: 10, right: 14, bottom: 24, left: 52 };

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const clockWithSeconds = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

function node(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A number just above `highest` that divides into round steps. */
function niceMaximum(highest) {
  if (!(highest > 0)) return 1;
  const magnitude = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 4, 5, 8, 10].map((factor) => factor * magnitude).find((nice) => nice >= highest * 1.05) ?? 20 * magnitude;
}

/** Steps of the time axis: at most five labels. */
function timeStep(span) {
  const minute = 60 * 1000;
  return [minute / 6, minute / 2, minute, 2 * minute, 5 * minute].find((step) => span / step <= 5) ?? 5 * minute;
}

/** A plot of one or more series over the last ten minutes. */
export class Plot {
  /** `series`: names; `format` converts a value to text. */
  constructor(container, { label, series, format }) {
    Object.assign(this, { container, label, series, format, data: series.map(() => []), now: Date.now() });
    this.legend = document.createElement("p");
    this.legend.className = "legend";
    this.frame = document.createElement("div");
    this.frame.className = "frame";
    container.append(this.legend, this.frame);
    new ResizeObserver(() => this.draw()).observe(this.frame);
    this.frame.addEventListener("pointermove", (event) => this.point(event));
    this.frame.addEventListener("pointerleave", () => { this.pointed = null; this.draw(); });
  }

  /** `data`: for each series, a list of [time, value or null]. */
  update(data, now) {
    const start = now - WINDOW;
    this.data = data.map((points) => points.filter(([time]) => time >= start));
    this.now = now;
    this.draw();
  }

  point(event) {
    const box = this.frame.getBoundingClientRect();
    this.pointed = event.clientX - box.left;
    this.draw();
  }

  draw() {
    const { width, height } = this.frame.getBoundingClientRect();
    if (width < 60 || height < 40) return;
    const times = this.data.flat().map(([time]) => time);
    const first = Math.max(this.now - WINDOW, Math.min(this.now - 60 * 1000, ...times));
    const values = this.data.flat().map(([, value]) => value ?? 0);
    const maximum = niceMaximum(Math.max(0, ...values));
    const x = (time) => MARGIN.left + ((time - first) / (this.now - first)) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => height - MARGIN.bottom - (value / maximum) * (height - MARGIN.top - MARGIN.bottom);

    const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
    svg.setAttribute("aria-label", this.describe(values));
    for (let step = 0; step <= 4; step += 1) {
      const value = (maximum * step) / 4;
      svg.append(node("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }));
      svg.append(node("text", { class: "tick", x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, this.format(value)));
    }
    const step = timeStep(this.now - first);
    const format = step < 60 * 1000 ? clockWithSeconds : clock;
    for (let time = Math.ceil(first / step) * step; time <= this.now; time += step) {
      if (x(time) > width - 30) break;
      svg.append(node("text", { class: "tick", x: x(time), y: height - 6, "text-anchor": "middle" }, format.format(time)));
    }
    this.data.forEach((points, index) => this.drawSeries(svg, points, index, x, y));
    const shown = this.pointed == null ? null : this.nearest(this.pointed, x);
    if (shown != null) svg.append(node("line", { class: "cursor", x1: x(shown), x2: x(shown), y1: MARGIN.top, y2: height - MARGIN.bottom }));
    this.frame.replaceChildren(svg);
    this.showLegend(shown);
  }

  drawSeries(svg, points, index, x, y) {
    let run = [];
    const finish = () => {
      if (run.length > 1) {
        const line = run.map(([time, value]) => `${x(time).toFixed(1)},${y(value).toFixed(1)}`).join(" L");
        if (this.data.length === 1) {
          const [left, right] = [x(run[0][0]), x(run.at(-1)[0])];
          svg.append(node("path", { class: "area", d: `M${left},${y(0)} L${line} L${right},${y(0)} Z` }));
        }
        svg.append(node("path", { class: `line series-${index}`, d: `M${line}` }));
      }
      run = [];
    };
    for (const point of points) {
      // Without requests there is no latency: the line has a gap.
      if (point[1] == null || point[0] - run.at(-1)?.[0] > GAP) finish();
      if (point[1] != null) run.push(point);
    }
    finish();
    const last = points.at(-1);
    if (last?.[1] != null) svg.append(node("circle", { class: `dot series-${index}`, cx: x(last[0]), cy: y(last[1]), r: 3.5 }));
  }

  nearest(position, x) {
    const times = this.data[0].map(([time]) => time);
    if (times.length === 0) return null;
    return times.reduce((best, time) => (Math.abs(x(time) - position) < Math.abs(x(best) - position) ? time : best));
  }

  valueAt(index, time) {
    const points = this.data[index];
    return time == null ? points.at(-1)?.[1] : points.find(([at]) => at === time)?.[1];
  }

  showLegend(time) {
    const text = (value) => (value == null ? "–" : this.format(value));
    const entries = this.series.map((name, index) => {
      const entry = document.createElement("span");
      const key = document.createElement("span");
      key.className = `key series-${index}`;
      const value = document.createElement("strong");
      value.textContent = text(this.valueAt(index, time));
      entry.append(key, `${name} `, value);
      return entry;
    });
    const when = document.createElement("span");
    when.className = "muted";
    when.textContent = `at ${clockWithSeconds.format(time)}`;
    this.legend.replaceChildren(...entries, ...(time == null ? [] : [when]));
  }

  describe(values) {
    const now = this.series.map((name, index) => `${name} now ${this.format(this.valueAt(index, null) ?? 0)}`).join(", ");
    return `${this.label}, last ten minutes: ${now}; highest ${this.format(Math.max(0, ...values))}`;
  }
}
