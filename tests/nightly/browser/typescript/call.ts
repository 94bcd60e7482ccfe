import createClient from "openapi-fetch";
import type { components, paths } from "./recserve.js";

type Slate = components["schemas"]["Slate"];

const client = createClient<paths>({ baseUrl: process.argv[2] });

function check(condition: boolean, what: string): void {
  if (!condition) throw new Error(what);
}

const ready = await client.GET("/v1/health/ready");
check(ready.data?.status === "ready", "the server is not ready");

const put = await client.PUT("/v1/items/{item_id}", {
  params: { path: { item_id: "typescript" } },
  body: { texts: { title: "The Compiler's Comet" }, attributes: { year: 1968 } },
});
check(put.error === undefined, JSON.stringify(put.error));

const asked = await client.POST("/v1/recommend", {
  body: { history: [{ text: "a voyage to a comet", weight: 1.0 }], k: 3, fields: ["title"] },
});
check(asked.error === undefined, JSON.stringify(asked.error));
const slate: Slate = asked.data as Slate;
check(slate.items.length === 3, "three items were asked for");
for (const item of slate.items) {
  const score: number = item.score;
  const parts: number[] = item.contributions ?? [];
  check(Math.abs(parts.reduce((sum, part) => sum + part, 0) - score) < 1e-5, "contributions do not add up");
}

const found = await client.GET("/v1/items/{item_id}", { params: { path: { item_id: "typescript" } } });
check(found.data?.texts["title"] === "The Compiler's Comet", JSON.stringify(found.data));

const refused = await client.POST("/v1/recommend", { body: { history: [{ text: "x" }], k: 0 } });
check(refused.response.status === 400, `k: 0 was answered with ${refused.response.status}`);
check(refused.error?.kind === "invalid_request", JSON.stringify(refused.error));

// @ts-expect-error: the schema has no such field
const misspelt: components["schemas"]["RecommendRequest"] = { history: [{ text: "x" }], kk: 3 };
const wrong = await client.POST("/v1/recommend", { body: misspelt });
check(wrong.response.status === 400, `an unknown field was answered with ${wrong.response.status}`);

console.log(JSON.stringify({ revision: slate.revision, items: slate.items.map((item) => item.id) }));
