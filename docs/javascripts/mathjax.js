// pymdownx.arithmatex (generic) marks the maths; MathJax typesets what is marked.
// MathJax itself lies beside the site, in mathjax/ (docs/mathjax_hook.py).
(() => {
  const here = document.currentScript.src;
  window.MathJax = {
    tex: {
      inlineMath: [["\\(", "\\)"]],
      displayMath: [["\\[", "\\]"]],
      processEscapes: true,
      processEnvironments: true,
    },
    options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex" },
  };
  const script = document.createElement("script");
  script.src = new URL("../mathjax/tex-chtml.js", here).href;
  script.async = true;
  document.head.appendChild(script);
})();
