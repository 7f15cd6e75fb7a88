/** A row of values as a line, in the height of a line of text. */
export function Sparkline({ values, label }: { values: number[]; label: string }) {
  const width = 120;
  const height = 26;
  const d = path(values, width, height);
  return (
    <svg class="spark" viewBox={`0 0 ${width} ${height}`} role="img" aria-label={label} preserveAspectRatio="none">
      {d && <path class="fill" d={`${d}L${width} ${height}L0 ${height}Z`} />}
      {d && <path class="line" d={d} />}
    </svg>
  );
}

/** The SVG path of values from 0 at the bottom to their maximum at the top. */
export function path(values: number[], width: number, height: number): string {
  if (values.length < 2) return "";
  const top = Math.max(...values, 1e-9);
  const step = width / (values.length - 1);
  return values
    .map((v, i) => `${i ? "L" : "M"}${(i * step).toFixed(1)} ${(height - 1 - (v / top) * (height - 3)).toFixed(1)}`)
    .join("");
}
