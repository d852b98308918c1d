"""What each proxy looks like in every picture; apart from the plots, which need matplotlib."""

INK, FAINT, GRID = "#222222", "#6b6b6b", "#e4e4e4"
VERMILLION, BLUE, PURPLE, GREEN, ORANGE, SKY = (
    "#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00", "#56B4E9")
SOLID, DASHED, DOTTED = "-", (0, (4, 1.5)), (0, (1, 1.3))
DASH_DOT, LONG = (0, (5, 1.2, 1, 1.2)), (0, (9, 2))

# Colour of the family, dashes of the member.
STYLES = {
    "direct": (FAINT, SOLID),
    "haproxy": (BLUE, SOLID), "haproxy-http": (BLUE, DASHED),
    "haproxy-tproxy": (BLUE, DOTTED), "haproxy-untracked": (BLUE, LONG),
    "envoy": (PURPLE, SOLID), "envoy-http": (PURPLE, DASHED),
    "nginx": (GREEN, SOLID),
    "egret": (VERMILLION, SOLID), "egret-http": (VERMILLION, DASHED),
    "egret-tproxy": (VERMILLION, DOTTED), "egret-unnamed": (VERMILLION, DASH_DOT),
    "egret-untracked": (VERMILLION, LONG),
    "egret-b": (ORANGE, SOLID), "egret-http-b": (ORANGE, DASHED),
    "monoio": (SKY, SOLID), "tokio-uring": (SKY, DASHED), "tokio": (SKY, DOTTED),
}
