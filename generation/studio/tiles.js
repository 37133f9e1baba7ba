// A wall of small pictures; a click says which. Serves the normals, the candidates and the prompt book's pictures.
element.addEventListener("click", (event) => {
  const tile = event.target.closest("[data-key]");
  if (tile) trigger("pick", { key: tile.dataset.key });
});
