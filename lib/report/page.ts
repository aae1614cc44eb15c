// The report's style and script: light and dark, values under the pointer.

export const style = `
:root{--bg:#fbfbfa;--card:#fff;--ink:#1c1d21;--soft:#6b6f7a;--line:#e6e6e3;--c1:#2f6fdf;--c2:#d9541e;--c3:#7a4fd0;--c4:#0f8a6d;--c5:#b5820b;--c6:#c2357a;
--ramp-from:#a9c9f5;--ramp-to:#123a86;--neutral:#e9e9e6;--less:#2f6fdf;--more:#d9541e;--mark:#e8f0fd}
@media(prefers-color-scheme:dark){:root{--bg:#121316;--card:#1a1c20;--ink:#e9eaee;--soft:#9398a5;--line:#2c2f36;--c1:#6ea3ff;--c2:#ff8a54;--c3:#b294ff;--c4:#46c9a4;--c5:#e0b146;--c6:#f57bb4;
--ramp-from:#2f4f86;--ramp-to:#c6dcff;--neutral:#33363d;--less:#6ea3ff;--more:#ff8a54;--mark:#22314d}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1160px;margin:0 auto;padding:32px 20px 48px}
h1{font-size:26px;line-height:1.2;margin:0;letter-spacing:-.01em}h2{font-size:18px;margin:36px 0 12px}h3{font-size:13px;font-weight:600;color:var(--soft);margin:0 0 8px}
header p{color:var(--soft);margin:6px 0 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:22px 0 12px}
.tiles div,.chart,.samples article,.config>div{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tiles div{padding:12px 14px;display:flex;flex-direction:column}
.tiles span,.tiles small,.unit,.legend,footer{color:var(--soft);font-size:12.5px}
.tiles b{font-size:23px;line-height:1.3;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:12px}
.chart{margin:0;padding:12px 16px 10px}.wide{grid-column:1/-1}
@media(max-width:760px){.charts{grid-template-columns:minmax(0,1fr)}}
figcaption{display:flex;flex-wrap:wrap;gap:2px 10px;align-items:baseline;margin-bottom:10px}figcaption b{font-size:14px}
.legend{display:flex;flex-wrap:wrap;gap:2px 12px;align-items:center;margin-left:auto}.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:5px;vertical-align:middle}
.legend .ramp{width:70px;height:6px;margin:0;background:linear-gradient(90deg in oklab,var(--ramp-from),var(--ramp-to))}
.legend .heat{width:70px;height:8px;margin:0;background:linear-gradient(90deg in oklab,var(--less),var(--neutral),var(--more))}
.plot{position:relative;margin:0 4px 24px 46px;outline-offset:4px;touch-action:pan-y}
.plot svg{width:100%;height:100%;display:block;overflow:hidden}
.plot path{fill:none;vector-effect:non-scaling-stroke;stroke-linejoin:round;stroke-linecap:round}
.plot .grid{stroke:var(--line);stroke-width:1}.plot .line{stroke-width:1.8}.plot .faint{stroke-width:1;opacity:.3}.plot .dots{stroke-width:6}
.legend .pale{opacity:.4}
.plot span{position:absolute;font-size:11.5px;color:var(--soft);font-variant-numeric:tabular-nums;white-space:nowrap}
.plot .y{right:100%;margin-right:8px;transform:translateY(-50%)}.plot .x{top:100%;margin-top:5px;transform:translateX(-50%)}
.cross{position:absolute;top:0;bottom:0;width:1px;background:var(--soft);opacity:.6;pointer-events:none}
.tip{position:absolute;top:4px;z-index:2;pointer-events:none;background:var(--card);border:1px solid var(--line);border-radius:7px;box-shadow:0 4px 16px #0002;padding:6px 9px;font-size:12px;white-space:nowrap;font-variant-numeric:tabular-nums}
.tip i{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:6px}.tip b{float:right;margin-left:14px}
.heatmap{border-spacing:1px;width:100%;table-layout:fixed}.heatmap th{width:64px;text-align:left;font-weight:400;font-size:11.5px;color:var(--soft)}.heatmap td{height:20px;padding:0;border-radius:2px}
.samples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:12px}
.samples article{padding:12px 14px;min-width:0}
pre{margin:0;font:12.5px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre-wrap;overflow-wrap:anywhere;max-height:420px;overflow:auto}
mark{background:var(--mark);color:inherit;border-radius:3px}
.config{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(300px,100%),1fr));gap:12px;align-items:start}.config>div{padding:12px 14px;min-width:0}
dl{display:grid;grid-template-columns:auto minmax(0,1fr);gap:2px 14px;margin:0;font-size:13px}dt{color:var(--soft)}dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
footer{margin-top:32px}
@media print{body{background:#fff}.chart,article{break-inside:avoid}pre{max-height:none}}
`

// Finds the nearest point of each line to the pointer, or to the place that the arrow keys choose.
export const script = `
for (const figure of document.querySelectorAll('figure.chart')) {
  const plot = figure.querySelector('.plot')
  if (!plot) continue
  const { range: [first, last], series } = JSON.parse(figure.querySelector('script').textContent)
  const cross = plot.querySelector('.cross'), tip = plot.querySelector('.tip')
  let at = first
  const nearest = (xs, x) => {
    let a = 0, b = xs.length - 1
    while (b - a > 1) { const m = (a + b) >> 1; if (xs[m] < x) a = m; else b = m }
    return x - xs[a] < xs[b] - x ? a : b
  }
  const show = (x) => {
    at = Math.max(first, Math.min(last, x))
    const main = series.reduce((p, s) => (s.x.length > p.x.length ? s : p))
    const step = main.x[nearest(main.x, at)]
    const left = last > first ? (step - first) / (last - first) : 0.5
    cross.style.left = left * 100 + '%'
    tip.replaceChildren(Object.assign(document.createElement('div'), { textContent: 'step ' + step }))
    const shown = series.length > 14 ? series.filter((_, i) => i % Math.ceil(series.length / 12) === 0 || i === series.length - 1) : series
    for (const s of shown) {
      const row = document.createElement('div'), dot = document.createElement('i'), value = document.createElement('b')
      dot.style.background = s.color
      const y = s.y[nearest(s.x, step)]
      value.textContent = y === null ? 'not a number' : y
      row.append(dot, s.name, value)
      tip.append(row)
    }
    tip.style.left = left < 0.5 ? 'calc(' + left * 100 + '% + 10px)' : ''
    tip.style.right = left < 0.5 ? '' : 'calc(' + (1 - left) * 100 + '% + 10px)'
    cross.hidden = tip.hidden = false
  }
  const hide = () => { cross.hidden = tip.hidden = true }
  plot.addEventListener('pointermove', (e) => {
    const box = plot.getBoundingClientRect()
    show(first + ((e.clientX - box.left) / box.width) * (last - first))
  })
  plot.addEventListener('pointerleave', hide)
  plot.addEventListener('blur', hide)
  plot.addEventListener('keydown', (e) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[e.key]
    if (e.key === 'Escape') hide()
    if (!way) return
    e.preventDefault()
    show(at + (way * (last - first)) / 100)
  })
}
`
