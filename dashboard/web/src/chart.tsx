import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

export interface Line {
  label: string;
  /** A custom property of theme.css, e.g. "--c1". */
  color: string;
  values: (number | null)[];
  fill?: boolean;
}

interface Props {
  title: string;
  /** Unix seconds, ascending. */
  times: number[];
  lines: Line[];
  format: (n: number) => string;
  /** Fixed bounds of the value axis; without, from 0 to what fits. */
  range?: [number, number];
}

const css = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const height = 180;

const clock = (seconds: number, withSeconds: boolean): string =>
  new Date(seconds * 1000).toLocaleTimeString([], {
    hour12: false,
    hour: "2-digit",
    minute: "2-digit",
    second: withSeconds ? "2-digit" : undefined,
  });

/** Points without a neighbour: a line alone would not show them. */
export function lone(values: ArrayLike<number | null | undefined>): number[] {
  const found: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] != null && values[i - 1] == null && values[i + 1] == null) found.push(i);
  }
  return found;
}

function options(p: Props, width: number): uPlot.Options {
  const axis = { stroke: () => css("--dim"), grid: { stroke: () => css("--grid"), width: 1 }, ticks: { show: false } };
  return {
    width,
    height,
    cursor: { y: false, points: { size: 6 }, sync: { key: "workload" } },
    legend: { live: true },
    scales: { x: { time: true }, y: { range: p.range ?? ((_u, _min, max) => [0, max > 0 ? max * 1.1 : 2]) } },
    axes: [
      { ...axis, size: 28, space: 70, values: (_u, ticks) => ticks.map((t) => clock(t, ticks.some((x) => x % 60 !== 0))) },
      { ...axis, size: 58, values: (_u, ticks) => ticks.map(p.format) },
    ],
    series: [
      { label: "time", value: (_u, v) => (v == null ? "–" : clock(v, true)) },
      ...p.lines.map((l) => ({
        label: l.label,
        stroke: () => css(l.color),
        fill: l.fill ? () => css(`${l.color}-fill`) : undefined,
        width: 1.75,
        points: { show: true, size: 4, filter: (u: uPlot, i: number) => lone(u.data[i] ?? []) },
        value: (_u: uPlot, v: number | null) => (v == null ? "–" : p.format(v)),
      })),
    ],
  };
}

/** Lines over time. Redraws its data in place; follows width and colour scheme. */
export function Chart(props: Props) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const labels = props.lines.map((l) => l.label).join();

  useEffect(() => {
    const host = box.current;
    if (!host) return;
    const u = new uPlot(options(props, host.clientWidth), [[]], host);
    plot.current = u;
    const resize = new ResizeObserver(() => u.setSize({ width: host.clientWidth, height }));
    resize.observe(host);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => u.redraw(false);
    scheme.addEventListener("change", redraw);
    return () => {
      scheme.removeEventListener("change", redraw);
      resize.disconnect();
      u.destroy();
    };
  }, [labels]);

  useEffect(() => {
    plot.current?.setData([props.times, ...props.lines.map((l) => l.values)] as uPlot.AlignedData);
  }, [props.times, props.lines]);

  return (
    <figure class="chart">
      <figcaption>{props.title}</figcaption>
      <div ref={box} />
    </figure>
  );
}
