for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[column].dataset.value;
    const isNumber = head.classList.contains("number");
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      // What has no value stands last, either way.
      if (x === "" || y === "") return (x === "") - (y === "");
      return (isNumber ? Number(x) - Number(y) : x.localeCompare(y)) * (down ? -1 : 1);
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  }));
}
